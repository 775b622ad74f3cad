"""The settings of a file, as a configuration that would say the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from mpaudit.config import Selection
from mpaudit.rule import catalogue
from mpaudit.settings import Settings


def render(settings: Settings, path: Path) -> str:
    """Where the settings come from, and each key with what holds for `path`; rules one by one."""
    lines = [f"Resolved settings for: {json.dumps(str(path.absolute()))}"]
    if settings.origin is not None:
        lines.append(f"Settings path: {json.dumps(str(settings.origin))}")
    return "\n".join((*lines, "", *_keys(settings, path))) + "\n"


def _keys(settings: Settings, path: Path) -> Iterator[str]:
    options = settings.options
    yield "# Files"
    yield from _list("exclude", [word for each in settings.excluded for word in each.words])
    yield f"force-exclude = {_boolean(options.get('force-exclude', False))}"
    yield f"respect-gitignore = {_boolean(options.get('respect-gitignore', True))}"
    yield f"cache-dir = {json.dumps(options.get('cache-dir', '.mpaudit_cache'))}"
    yield f"baseline = {json.dumps(options.get('baseline', ''))}"
    yield ""
    yield "# Rules that are on in this file"
    yield from _list("plugins", settings.plugins)
    yield from _list("select", _on(settings, settings.of(path.absolute().as_posix())))
    yield ""
    yield "# Fixes"
    offered = settings.fixable or Selection(("ALL",), preview=True)
    yield from _list("fixable", _on(settings, offered, fixable=True))
    for key in ("fix", "fix-only", "show-fixes", "unsafe-fixes"):
        yield f"{key} = {_boolean(options.get(key, False))}"
    yield from _list("extend-safe-fixes", settings.safe)
    yield from _list("extend-unsafe-fixes", settings.unsafe)
    yield ""
    yield "# Targets and output"
    torch, keras = settings.target.torch, settings.target.keras
    yield f"target-torch = {json.dumps('' if torch is None else f'{torch[0]}.{torch[1]}')}"
    yield f"target-keras = {json.dumps('' if keras is None else str(keras))}"
    yield f"output-format = {json.dumps(options.get('output-format', 'full'))}"
    yield f"preview = {_boolean(options.get('preview', False))}"
    for word, severity in settings.severity.items():
        yield f"severity.{word} = {json.dumps(severity.value)}"
    for pattern, words in settings.ignored_in():
        yield from _list(f"per-file-ignores.{json.dumps(pattern)}", words)


def _on(settings: Settings, selection: Selection, *, fixable: bool = False) -> list[str]:
    return [
        f"{each.code} {each.name}"
        for each in catalogue().values()
        if settings.has(each) and selection.includes(each)
        if (not fixable or each.fix in ("safe", "unsafe"))
    ]


def _list(key: str, words: Sequence[str]) -> Iterator[str]:
    if not words:
        yield f"{key} = []"
        return
    yield f"{key} = ["
    yield from (f"    {json.dumps(each)}," for each in words)
    yield "]"


def _boolean(value: object) -> str:
    return "true" if value else "false"

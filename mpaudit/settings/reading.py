"""From a configuration file, or an option of the command line, to a layer of settings."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from mpaudit.default import PYPROJECT
from mpaudit.errors import MpauditError
from mpaudit.report import shown
from mpaudit.settings.key import KEYS, WrongValueError

_HEADER = re.compile(r"\s*\[+\s*(?P<name>[^]#]+?)\s*\]+\s*(#.*)?$")
_ASSIGNED = re.compile(r"""\s*(?P<key>(?:"[^"]*"|'[^']*'|[\w.-]+)+)\s*=""")
_LINE = re.compile(r"\(at line (\d+)")
_MAX_EXTENDED = 20


class Layer(Struct, frozen=True):
    """The values of one file, or of the command line, by key; patterns count from `folder`."""

    values: Mapping[str, Any]
    folder: Path
    origin: Path | None = None


def layers(path: Path, folder: Path | None = None) -> tuple[Layer, ...]:
    """What a file says, and before it what the files say that it extends.

    `folder` is where its patterns count from, if not its own. Raises MpauditError, naming file and
    line, for a file that cannot be read or says what no key takes.
    """
    found: list[Layer] = []
    origin: Path | None = path
    while origin is not None:
        table, text = _table(origin)
        layer = Layer(_values(table, origin, text), folder or origin.parent, origin)
        found.insert(0, layer)
        if any(each.origin == origin for each in found[1:]) or len(found) > _MAX_EXTENDED:
            raise MpauditError(f"{shown(str(path))}: the files that it extends go in a circle")
        extended = layer.values.get("extend")
        if not extended:
            break
        before, folder = origin, None
        origin = (before.parent / Path(extended).expanduser()).absolute()
        if not origin.is_file():
            row = locate(text, "extend", table=_prefix(before))
            raise MpauditError(f"{shown(str(before))}:{row}: extend: there is no file {extended!r}")
    return tuple(found)


def concerns(path: Path) -> bool:
    """Whether a file is a configuration of ours; a pyproject.toml is one if it has our table."""
    try:
        if path.name != PYPROJECT or not path.is_file():
            return path.is_file()
        if b"mpaudit" not in path.read_bytes():
            return False
    except OSError:
        return False
    data, text = _loaded(path)
    ours = _tool(data)
    if ours is not None and not isinstance(ours, dict):
        row = locate(text, "mpaudit", table="tool")
        raise MpauditError(f"{shown(str(path))}:{row}: tool.mpaudit takes a table of keys")
    return ours is not None


def given(text: str, folder: Path) -> Layer:
    """What `--config "key = value"` says. Raises MpauditError."""
    try:
        table = _toml().loads(text)
    except ValueError:
        raise MpauditError(
            f"--config: {text!r} is neither a file nor a `key = value` as in mpaudit.toml"
        ) from None
    return Layer(_checked(table, lambda _key, _word: f"--config {text!r}", folder), folder)


def _table(path: Path) -> tuple[Mapping[str, Any], str]:
    data, text = _loaded(path)
    if path.name != PYPROJECT:
        return data, text
    ours = _tool(data)
    return (ours if isinstance(ours, dict) else {}), text


def _tool(data: Mapping[str, Any]) -> object:
    tool = data.get("tool")
    return tool.get("mpaudit") if isinstance(tool, dict) else None


def _prefix(path: Path) -> str:
    return "tool.mpaudit" if path.name == PYPROJECT else ""


def _loaded(path: Path) -> tuple[dict[str, Any], str]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors put a mark before it
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "it is no UTF-8 text"
        raise MpauditError(f"{shown(str(path))}: it cannot be read: {reason}") from None
    try:
        return _toml().loads(text), text
    except ValueError as problem:
        line = _LINE.search(str(problem))
        row = line[1] if line else str(text.count("\n") + 1)
        reason = str(problem).split(" (at ")[0]
        raise MpauditError(f"{shown(str(path))}:{row}: it is no TOML: {reason}") from None


def _values(table: Mapping[str, Any], path: Path, text: str) -> dict[str, Any]:
    def where(key: str, word: str) -> str:
        return f"{shown(str(path))}:{locate(text, key, word, table=_prefix(path))}"

    return _checked(table, where, path.parent)


def _checked(table: Mapping[str, Any], where: Any, folder: Path) -> dict[str, Any]:
    """The values of a table; the plugins come first, for the other keys may name their rules."""
    values: dict[str, Any] = {}
    for name, value in sorted(table.items(), key=lambda each: each[0] != "plugins"):
        key = KEYS.get(name)
        if key is None:
            close = _nearest(name, list(KEYS))
            hint = f"did you mean {close!r}?" if close else "see mpaudit.schema.json"
            if name == "tool":
                hint = "outside of pyproject.toml the keys stand without [tool.mpaudit]"
            raise MpauditError(f"{where(name, '')}: there is no key {name!r}; {hint}")
        try:
            values[name] = key.kind.read(value)
            if name == "plugins":
                _load(values[name], folder)
        except WrongValueError as problem:
            raise MpauditError(f"{where(name, problem.word)}: {name}: {problem}") from None
    return values


def _load(names: Sequence[str], folder: Path) -> None:
    if not names:
        return
    from mpaudit.extension.loading import load

    for name in names:
        try:
            load(name, folder)
        except MpauditError as problem:
            raise WrongValueError(str(problem), name) from problem


def _nearest(word: str, words: Sequence[str]) -> str | None:
    from difflib import get_close_matches

    found = get_close_matches(word.lower().replace("_", "-"), words, n=1, cutoff=0.6)
    return found[0] if found else None


def locate(text: str, key: str, word: str = "", *, table: str = "") -> int:
    """The row (from 1) of a key of a table in TOML, or of a word in its value, as well as it shows."""
    rows = text.splitlines()
    found = _row_of(rows, key, table)
    if not word:
        return found
    for number, row in enumerate(rows[found - 1 :], found):
        if f'"{word}"' in row or f"'{word}'" in row or re.match(rf"\s*{re.escape(word)}\s*=", row):
            return number
    return found


def _row_of(rows: Sequence[str], key: str, table: str) -> int:
    current, fallback = "", 0
    for number, row in enumerate(rows, 1):
        if header := _HEADER.match(row):
            current = _plain(header["name"])
            if current == f"{table}.{key}".lstrip("."):
                return number
        elif assigned := _ASSIGNED.match(row):
            full = f"{current}.{_plain(assigned['key'])}".lstrip(".")
            wanted = f"{table}.{key}".lstrip(".")
            if full == wanted or full.startswith(f"{wanted}."):
                return number
        if not fallback and key in row:
            fallback = number
    return fallback or 1


def _plain(name: str) -> str:
    """A dotted name of TOML without quotation marks and spaces."""
    return ".".join(part.strip().strip("\"'") for part in name.split("."))


def _toml() -> Any:
    """The reader of TOML; it is loaded where there is a file to read."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib

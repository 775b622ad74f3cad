"""What plugins have brought into this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from msgspec import Struct

from mpaudit import rule
from mpaudit.errors import MpauditError
from mpaudit.source.text import discovery


class Loaded(Struct, frozen=True):
    """One plugin: the dotted `name` of its module, where that was found, and what it holds.

    `folder` is where its configuration stands. `files` are all files that make it, with digests of
    their contents: whatever it says rests on them.
    """

    name: str
    origin: str
    folder: Path
    rules: tuple[rule.Rule, ...]
    checks: tuple[Callable[..., Any], ...]
    protocols: tuple[type[Any], ...]
    words: tuple[bytes, ...]
    files: tuple[tuple[str, str], ...]


_loaded: dict[str, Loaded] = {}


def loaded() -> list[Loaded]:
    """All plugins, in the order in which they came."""
    return list(_loaded.values())


def known(name: str) -> Loaded | None:
    """The plugin whose module is called so."""
    return _loaded.get(name)


def put(plugin: Loaded) -> None:
    """Take a plugin, in place of an earlier one of its name."""
    _loaded.pop(plugin.name, None)
    _loaded[plugin.name] = plugin
    _tell()


def drop(name: str) -> None:
    """Take a plugin away."""
    _loaded.pop(name, None)
    _tell()


def _tell() -> None:
    rule.learn(each for plugin in loaded() for each in plugin.rules)
    words = (word for plugin in loaded() for word in plugin.words)
    discovery.widen(words, rule.prefixes())


def signature() -> str:
    """A digest of all plugins, down to their files; empty without any."""
    if not _loaded:
        return ""
    rows = [f"{plugin.name} {row}" for plugin in loaded() for row in plugin.files]
    text = "\n".join(rows).encode(errors="surrogateescape")
    return blake2b(text, digest_size=16).hexdigest()


def described(names: Iterable[str]) -> None:
    """Raises MpauditError, where plugins are loaded, for the name of a rule that has no page."""
    if not _loaded:
        return
    for name in names:
        if name not in rule.catalogue():
            who = ", ".join(_loaded)
            raise MpauditError(
                f"plugin {who}: a problem names the rule {name!r}, which has no page"
            )


def files() -> Iterator[str]:
    """The files that plugins are made of."""
    for plugin in _loaded.values():
        yield from (file for file, _ in plugin.files)


@contextmanager
def blaming() -> Iterator[None]:
    """Turn an error that comes out of a plugin's own code into one that names the plugin."""
    try:
        yield
    except MpauditError:
        raise
    except Exception as problem:
        import traceback

        owner = {file: plugin.name for plugin in loaded() for file, _ in plugin.files}
        for frame in reversed(traceback.extract_tb(problem.__traceback__)):
            if frame.filename in owner:
                said = " ".join(f"{type(problem).__name__}: {problem}".split())
                raise MpauditError(
                    f"plugin {owner[frame.filename]}: it failed with {said} "
                    f"({frame.filename}:{frame.lineno})"
                ) from problem
        raise

"""What nobody in a program does to a scaler: what its files say of methods that are never called.

A function that nobody in view calls may be one part of an iteration, and its caller may do the rest. Where
no file that has to do with it calls `update()` on anything that could be the scaler, nobody does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from mpaudit.default import EXCLUDED
from mpaudit.source.reach import reached

if TYPE_CHECKING:
    from mpaudit.source.module import Module
    from mpaudit.source.project import Project

METHODS = ("scale", "unscale_", "update")
MAX_FILES = 3000
"""In a larger program nobody looks: then nothing is known to be absent."""
ROOTS = (".git", "pyproject.toml", "setup.py", "setup.cfg")
_CALLED = re.compile(r"(scale|unscale_|update)\s*\(")
_HOLDER = re.compile(r"(\w+)(?:\[[^\]\n]*\])?\s*\.\s*\Z")
_REACH = 200
"""Characters before a method's name in which to look for what it is called on."""
_IMPORT = re.compile(r"^[ \t]*(?:from|import)\b.*$", re.MULTILINE)
_WORD = re.compile(r"\w+")

Called = dict[str, frozenset[str]]
"""Method -> the last names of what it is called on."""


@dataclass(slots=True)
class _Read:
    """What was worked out for a project: the answers by file, the calls in each.

    The texts themselves are not kept, which in a large program take tens of megabytes. Those of
    modules (True) may differ from what is written in their files.
    """

    answers: dict[str, Called | None] = field(default_factory=dict)
    calls: dict[tuple[Path, bool], tuple[tuple[str, str], ...]] = field(default_factory=dict)


_known: WeakKeyDictionary[Project, _Read] = WeakKeyDictionary()


def never_called(name: str, module: Module, project: Project) -> frozenset[str]:
    """The methods of a scaler that no file around `module` calls; `name` is what holds it there.

    A name with an underscore in front is its object's own; anything else may be called otherwise
    elsewhere, as long as it is still called a scaler.
    """
    read = _known.setdefault(project, _Read())
    if module.filename not in read.answers:
        read.answers[module.filename] = _called(module, project, read)
    called = read.answers[module.filename]
    if called is None:
        return frozenset()
    return frozenset(
        method
        for method in METHODS
        if not any(
            other == name or (not name.startswith("_") and "scal" in other.lower())
            for other in called[method]
        )
    )


def _called(module: Module, project: Project, read: _Read) -> Called | None:
    around = _around(module, project)
    if around is None:
        return None
    found: dict[str, set[str]] = {method: set() for method in METHODS}
    for path, held in around.items():
        key = path, held is not None
        if key not in read.calls:
            text = _text(path) if held is None else held
            if text is None:
                return None
            read.calls[key] = tuple(_calls(text))
        for method, holder in read.calls[key]:
            found[method].add(holder)
    return {method: frozenset(names) for method, names in found.items()}


def _calls(text: str) -> Iterator[tuple[str, str]]:
    """The methods that a text calls, with the last names of what they are called on.

    The method is looked for first, by its letters, which is 20 times faster.
    """
    for match in _CALLED.finditer(text):
        start = match.start()
        holder = _HOLDER.search(text[max(0, start - _REACH) : start])
        if holder is not None:
            yield match[1], holder[1]


def _around(module: Module, project: Project) -> dict[Path, str | None] | None:
    """A file, all that it imports and all that imports it, with the texts that are at hand."""
    below = reached(module, project)
    path = Path(module.filename).absolute()
    root = _root(path)
    noted = project.noted(module)
    noted.roots.add(str(root))
    for folder in path.parents:
        noted.asked.update(str(folder / name) for name in (*ROOTS, "__init__.py"))
        if folder == root:
            break
    if root not in project.imported:
        project.imported[root] = _read(root)
    others = project.imported[root]
    if below is None or others is None:
        return None
    found: dict[Path, str | None] = {Path(m.filename).absolute(): m.text for m in below}
    news = {path}
    while news:
        names = {p.stem if p.stem != "__init__" else p.parent.name for p in news}
        news = {
            path
            for path, words in others.items()
            if path not in found and not names.isdisjoint(words)
        }
        found |= dict.fromkeys(news)
    return found


def _imported(text: str) -> frozenset[str]:
    """The words of the import lines of a file."""
    lines = _IMPORT.findall(text)
    return frozenset(intern(word) for line in lines for word in _WORD.findall(line))


def _root(path: Path) -> Path:
    """The folder of a program: that of its repository, or the one around its outermost package."""
    for folder in path.parents:
        if any((folder / name).exists() for name in ROOTS):
            return folder
    folder = path.parent
    while (folder / "__init__.py").exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _read(root: Path) -> dict[Path, frozenset[str]] | None:
    """What the files of a program import, in words."""
    paths = scripts(root)
    if paths is None:
        return None
    found: dict[Path, frozenset[str]] = {}
    for path in paths:
        text = _text(path)
        if text is None:
            return None
        found[path] = _imported(text)
    return found


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def scripts(root: Path) -> list[Path] | None:
    """The files of a program, in order; None if there are too many to look at.

    What is installed beside it, in a virtual environment, is none of it.
    """
    found: list[Path] = []
    for folder, names, filenames in os.walk(root):
        names[:] = [name for name in names if name not in EXCLUDED]
        paths = (Path(folder, name) for name in filenames if name.endswith(".py"))
        found += [path for path in paths if path.is_file()]  # a pipe would be waited for
        if len(found) > MAX_FILES:
            return None
    return sorted(found)

"""The texts of a program around one of its files: of all that it imports, and of all that imports it.

They say what nobody in the program does, without being parsed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, TypeVar

from mpaudit.default import EXCLUDED
from mpaudit.source.text.reach import reached

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module
    from mpaudit.source.text.project import Project

T = TypeVar("T")
MAX_FILES = 3000
"""In a larger program nobody looks: then nothing is known to be absent."""
ROOTS = (".git", "pyproject.toml", "setup.py", "setup.cfg")
_IMPORT = re.compile(r"^[ \t]*(?:from|import)\b.*$", re.MULTILINE)
_WORD = re.compile(r"\w+")

Known = dict[tuple[Path, bool], T]
"""What was seen in a text, by its file; that of a module (True) may differ from what its file says.

The texts themselves are not kept, which in a large program take tens of megabytes.
"""


def told(
    module: Module, project: Project, look: Callable[[str], T], known: Known[T]
) -> list[T] | None:
    """What a look at each text around a file tells, the file's own included.

    Each is looked at once, and `known` from then on. None if there are too many, or one of them cannot
    be read.
    """
    around = _around(module, project)
    if around is None:
        return None
    found: list[T] = []
    for path, held in around.items():
        key = path, held is not None
        if key not in known:
            text = _text(path) if held is None else held
            if text is None:
                return None
            known[key] = look(text)
        found.append(known[key])
    return found


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

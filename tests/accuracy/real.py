"""The training files of unpacked packages: which of them are taken, and what is checked with each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

FILES = 3
"""So many training files of a package are taken, spread evenly over its files in order."""
MOST = 12
"""Mutants of a file, each of another operator, spread evenly over them; the fixtures take them all."""
AROUND = 2
"""So many files that import a training file are checked with it: its callers may decide."""
LARGEST = 200_000
"""A larger file, in characters, was generated."""
TRAINS = re.compile(r"\.unscale_\(|scaler\w*\.step\(|\.scale\(.*\)\.backward\(")
DRIVES = re.compile(r"scaler|autocast|amp\b|backward|optimizer|train")


def training_files(
    folders: Iterable[Path], most: int = FILES
) -> Iterator[tuple[str, Path, tuple[Path, ...]]]:
    """(name, file, files around it) of the files of packages that use a GradScaler.

    A folder holds one package in each of its folders.
    """
    for folder in folders:
        for package in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not package.is_dir():
                continue
            texts = dict(_texts(package))
            training = [path for path, text in texts.items() if TRAINS.search(text)]
            for path in spread(training, most):
                yield path.relative_to(folder).as_posix(), path, _around(path, texts)


def _texts(package: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(package.rglob("*.py")):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if len(text) < LARGEST:
            yield path, text


def spread(things: list[T], most: int) -> list[T]:
    """So many of some things, evenly over all."""
    if len(things) <= most:
        return things
    return [things[index * len(things) // most] for index in range(most)]


def _around(path: Path, texts: dict[Path, str]) -> tuple[Path, ...]:
    """The files that import a file, those first that have most to do with training."""
    name = path.parent.name if path.stem == "__init__" else path.stem
    imports = re.compile(rf"^[ \t]*(?:from|import)\b[^#\n]*\b{re.escape(name)}\b", re.MULTILINE)
    found = [
        (-min(len(DRIVES.findall(text)), 20), len(other.parts), other)
        for other, text in texts.items()
        if other != path and imports.search(text)
    ]
    return tuple(other for _, _, other in sorted(found)[:AROUND])

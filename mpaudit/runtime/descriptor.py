"""The open files of a trace: a script may close them, and open others under the same numbers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

_FOLDERS = ("/proc/self/fd", "/dev/fd")
_Identity = tuple[int, int]


def of(paths: Iterable[Path]) -> Mapping[int, _Identity]:
    """The descriptors of this process that lead to these files, with what they lead to.

    Empty where the system does not list them.
    """
    wanted = {found for path in paths if (found := _identity(path)) is not None}
    numbers: set[int] = set()
    for folder in _FOLDERS:
        with contextlib.suppress(OSError):
            numbers.update(int(each.name) for each in Path(folder).iterdir())
            break
    there = {number: _identity(number) for number in numbers}
    return {number: found for number, found in there.items() if found in wanted and found}


def intact(held: Mapping[int, _Identity]) -> bool:
    """Whether they all still lead where they did."""
    return all(_identity(number) == found for number, found in held.items())


def _identity(which: int | Path) -> _Identity | None:
    try:
        found = os.fstat(which) if isinstance(which, int) else which.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino

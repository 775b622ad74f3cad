"""Which line of the user's code is running: the place that events of a run carry."""

from __future__ import annotations

import contextlib
import inspect
import linecache
import os
import site
import sys
import sysconfig
from collections.abc import Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from mpaudit.finding import Position, Span

OWN = str(Path(__file__).resolve().parents[1])
"""The folder of mpaudit."""


_PACKAGES = frozenset(["site-packages", "dist-packages"])


@cache
def _foreign() -> tuple[str, ...]:
    """The folders of code that is not the user's: standard library, packages, mpaudit."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths.update(site.getsitepackages(), [site.getusersitepackages(), OWN])
    return tuple(str(Path(path)) + os.sep for path in paths if path)


@cache
def is_users(filename: str) -> bool:
    """Whether a code object's filename belongs to the user's project: a script, its modules.

    Packages of another environment, which a cluster's modules put on the path, do not.
    """
    if filename.startswith("<"):
        return filename.startswith("<ipython")
    path = Path(filename).absolute()
    return not (str(path).startswith(_foreign()) or _PACKAGES.intersection(path.parts))


@cache
def _is_own(filename: str) -> bool:
    return filename.startswith(OWN + os.sep)


@cache
def _is_of(package: str, filename: str) -> bool:
    """Whether a file is a package's (a folder), or mpaudit's own."""
    return filename.startswith(package) or _is_own(filename)


def asking() -> str:
    """The name of the module that has called mpaudit, in the place of what it meant to call."""
    frame = sys._getframe(1)
    while _is_own(frame.f_code.co_filename) and frame.f_back is not None:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


_frame, _modules = sys._getframe, sys.modules


def user_frame(frame: FrameType | None = None) -> FrameType | None:
    """The innermost frame of the user's code, from `frame` (default: the caller's) outwards."""
    found: FrameType | None = frame or _frame(1)
    main = _modules.get("__main__")
    script = None if main is None else main.__dict__
    while found is not None:  # asked some times in each step: no more than a look for each frame
        if found.f_globals is script or is_users(found.f_code.co_filename):
            return found
        found = found.f_back
    return None


def enters_plainly(frame: FrameType | None) -> bool:
    """Whether `frame`, which is of the user's code, enters what is entered in a `with` of its own: then
    `entered_by_user` has no more to find out."""
    caller: FrameType | None = _frame(1)
    while caller is not None and _is_own(caller.f_code.co_filename):
        caller = caller.f_back
    if caller is None or caller is not frame or caller.f_code.co_name == "__enter__":
        return False
    back = caller.f_back
    return back is None or back.f_code.co_filename != contextlib.__file__


def entered_by_user(frame: FrameType | None, package: str) -> bool:
    """Whether the `with` that enters a context of `package` (a folder) is the user's, not a library's.

    `frame` called the context's `__enter__`. Contexts around it that a generator or a class makes are
    seen through, wherever they come from: it counts who wrote the outermost `with`.
    """
    while frame is not None:
        code, back = frame.f_code, frame.f_back
        through = code.co_name == "__enter__" or _is_of(package, code.co_filename)
        if not (through or code.co_filename == contextlib.__file__):
            behind = None if back is None else back.f_code
            if behind is None or behind.co_filename != contextlib.__file__:
                return user_frame(frame) is frame
            if behind.co_name != "__enter__":  # a function that a context decorates
                return user_frame(frame) is frame
        frame = back
    return False


def user_span(frame: FrameType | None = None) -> Span:
    """Where the user's code is now; a span in `<unknown>` where none of it is on the stack.

    Exact to the column from Python 3.11 on, before that the line.
    """
    return frame_span(user_frame(frame or sys._getframe(1)))


_UNKNOWN = Span("<unknown>", Position(1, 1), Position(1, 1))
_spans: dict[tuple[int, int], tuple[CodeType, Span]] = {}
"""By the identity of a code object, which is kept for that, and instruction: its hash takes longer than
all the rest, for it is made of all that is in it each time."""


def frame_span(frame: FrameType | None) -> Span:
    """Where a frame of the user's code is; in `<unknown>` for None."""
    if frame is None:
        return _UNKNOWN
    code = frame.f_code
    try:
        return _spans[id(code), frame.f_lasti][1]
    except KeyError:
        found = _span(code, frame.f_lasti, frame.f_lineno)
        _spans[id(code), frame.f_lasti] = code, found
        return found


def _span(code: CodeType, instruction: int, row: int) -> Span:
    filename = code.co_filename
    if not filename.startswith("<"):  # a text of `python -c`
        filename = str(Path(filename).absolute())
    if sys.version_info >= (3, 11):
        place = next(islice(code.co_positions(), instruction // 2, None), (None,) * 4)
        first, last, left, right = place
        if first is not None and last is not None and left is not None and right is not None:
            start = Position(first, _column(code.co_filename, first, left))
            return Span(filename, start, Position(last, _column(code.co_filename, last, right)))
    return _line(code.co_filename, row)


def _line(filename: str, row: int) -> Span:
    line = linecache.getline(filename, row).rstrip("\n")
    indent = len(line) - len(line.lstrip())
    end = Position(row, max(len(line), indent) + 1)
    return Span(str(Path(filename).absolute()), Position(row, indent + 1), end)


def decorator_span(function: object, word: str) -> Span | None:
    """Where a function of the user's is decorated by something with `word` in it; None for others'."""
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    if code is None or not is_users(code.co_filename):
        return None
    row = code.co_firstlineno  # of the first decorator
    for each in range(row, row + 9):
        line = linecache.getline(code.co_filename, each).lstrip()
        if not line.startswith("@"):
            break
        if word in line:
            row = each
    return _line(code.co_filename, row)


def _column(filename: str, row: int, offset: int) -> int:
    """The 1-based column in characters for an offset in UTF-8 bytes."""
    line = linecache.getline(filename, row).encode()
    return len(line[:offset].decode(errors="ignore")) + 1 if line else offset + 1


def spelling(value: object, frame: FrameType | None) -> str:
    """How the user's code spells `value`: a name or `self.name` in `frame`, else its class.

    What a method calls `self` has another name elsewhere.
    """
    found = None
    if frame is not None:
        local = frame.f_locals
        found = _name(value, local, frame.f_globals)
        # Before Python 3.13 these are a copy that stays with the frame: as long as its function runs, it
        # would keep alive what the script has let go of. It is emptied, unless others have it as well.
        copied = frame.f_code.co_flags & inspect.CO_OPTIMIZED and type(local) is dict
        if copied and sys.getrefcount(local) <= _OURS:
            local.clear()
    return found or type(value).__name__


_OURS = 3  # references: of the frame, of the function that asks, of the one that counts


def _name(value: object, local: Mapping[str, Any], others: Mapping[str, Any]) -> str | None:
    for scope in (local, others):
        for name, held in scope.items():
            if held is value and name != "self" and not name.startswith("__"):
                return name
    for name, held in getattr(local.get("self"), "__dict__", {}).items():
        if held is value:
            return f"self.{name}"
    return None

"""Which line of the user's code is running, also where autograph has rewritten it."""

from __future__ import annotations

import ast
import linecache
import sys
import threading
from functools import cache
from pathlib import Path
from types import FrameType

from mpaudit.finding import Position, Span
from mpaudit.runtime.frame import OWN, is_users, user_frame, user_span
from mpaudit.runtime.keras.replica_thread import behind

REWRITTEN = "__autograph_generated_file"


def place(*names: str, frame: FrameType | None = None) -> Span | None:
    """The innermost call in the user's code, None if none of it is on the stack.

    `names` are what the called function may be called there; they find the exact call in a line
    that autograph has rewritten.
    """
    thread, found = _running(frame or sys._getframe(1))
    while found is not None and REWRITTEN in found.f_code.co_filename:
        original = _before_autograph(found, thread)
        if original is None:
            return None
        if is_users(original[0]):
            return _call_at(*original, names)
        found = user_frame(found.f_back) if found.f_back else None  # Keras 2's own training step
    return None if found is None else user_span(found)


def innermost() -> FrameType | None:
    """The innermost frame of the user's code, None if there is none."""
    return _running(sys._getframe(1))[1]


def constructor(made: object) -> FrameType | None:
    """The frame that constructs `made`, outside its chain of `__init__`."""
    frame: FrameType | None = sys._getframe(1)
    outermost = frame
    while frame is not None:
        code = frame.f_code
        own = code.co_name == "__init__" and code.co_argcount > 0
        if own and frame.f_locals.get(code.co_varnames[0]) is made:
            outermost = frame.f_back
        frame = frame.f_back
    return outermost


def by_hand(through: str) -> bool:
    """Whether the user's code calls what is being watched, with nothing but the file `through` between."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((OWN, through)):
        frame = frame.f_back
    return frame is not None and user_frame(frame) is frame


def _running(frame: FrameType) -> tuple[int, FrameType | None]:
    """The innermost frame of the user's code from `frame` outwards, and its thread.

    Where a thread that computes a replica has none of it, the thread which waits for it has.
    """
    found = user_frame(frame)
    if found is None and (waiting := behind()) is not None:
        return waiting[0], user_frame(waiting[1])
    return threading.get_ident(), found


def _before_autograph(frame: FrameType, thread: int) -> tuple[str, int] | None:
    """File and row that a line of autograph's output was made from, by TensorFlow's own map."""
    from tensorflow.python.util import tf_stack

    mapper = tf_stack._source_mapper_stacks[thread][-1]
    found = mapper.get_effective_source_map().get((frame.f_code.co_filename, frame.f_lineno))
    return (str(found[0]), int(found[1])) if found else None


@cache
def _call_at(filename: str, row: int, names: tuple[str, ...]) -> Span:
    path = str(Path(filename).absolute())
    lines = [line.rstrip("\n") for line in linecache.getlines(filename)]
    try:
        tree = ast.parse("\n".join(lines))
    except (ValueError, SyntaxError, SystemError):  # the last was met in Python 3.11
        return Span(path, Position(row, 1), Position(row, 1))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and node.lineno <= row <= (node.end_lineno or node.lineno)
        and (not names or _callee(node) in names)
    ]
    if not calls:
        line = lines[row - 1] if row <= len(lines) else ""
        indent = len(line) - len(line.lstrip())
        return Span(path, Position(row, indent + 1), Position(row, max(len(line), indent) + 1))
    call = min(calls, key=lambda each: (each.end_lineno or each.lineno) - each.lineno)
    end_row, end = call.end_lineno or call.lineno, call.end_col_offset or call.col_offset
    return Span(
        path,
        Position(call.lineno, _column(lines, call.lineno, call.col_offset)),
        Position(end_row, _column(lines, end_row, end)),
    )


def _callee(call: ast.Call) -> str | None:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else None


def _column(lines: list[str], row: int, offset: int) -> int:
    """The 1-based column in characters for an offset in UTF-8 bytes."""
    return len(lines[row - 1].encode()[:offset].decode(errors="ignore")) + 1

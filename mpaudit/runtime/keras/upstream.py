"""What an exception of TensorFlow still holds of the program: the user's calls, and what a tensor is of."""

from __future__ import annotations

import ast
import linecache
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from msgspec import Struct

from mpaudit.runtime.frame import is_users
from mpaudit.runtime.keras.place import REWRITTEN

_TOLD = re.compile(r'File "(?P<file>[^"\n]+)", line (?P<row>\d+), in (?P<function>\S+)')
"""A frame, as autograph tells it in the text of an exception."""
_OUTERMOST = "<module>"


class Frame(Struct, frozen=True):
    """A call of the user's that an exception went through; `names` are its local names.

    `operands` are the two sides of the binary operation that it went through there, if it was one.
    """

    filename: str
    row: int
    function: str
    names: Mapping[str, Any]
    operands: tuple[str, str] | None = None

    @property
    def place(self) -> str:
        """File and row, as short as can be."""
        return _place(self.filename, self.row)


def stack(error: BaseException) -> list[Frame]:
    """The calls of the user's that an exception went through, the innermost last.

    What autograph has rewritten is told as the user wrote it, by the exception's own text.
    """
    found: list[Frame] = []
    rewritten: list[FrameType] = []
    at = error.__traceback__
    while at is not None:
        frame, code = at.tb_frame, at.tb_frame.f_code
        if REWRITTEN in code.co_filename:
            rewritten.append(frame)
        elif is_users(code.co_filename):
            sides = _operands(code, at.tb_lasti)
            found.append(Frame(code.co_filename, at.tb_lineno, code.co_name, frame.f_locals, sides))
        at = at.tb_next
    if not rewritten:
        return found
    names = {name: held for each in rewritten for name, held in each.f_locals.items()}
    told = [each for each in _TOLD.finditer(str(error)) if is_users(each["file"])]
    for each in told:
        own = [f.f_locals for f in rewritten if f.f_code.co_name == f"tf__{each['function']}"]
        last = each is told[-1]  # it has the branches and bodies that are functions now, too
        held = names if last else own[0] if own else {}
        found.append(Frame(each["file"], int(each["row"]), each["function"], held))
    return found


def _operands(code: CodeType, instruction: int) -> tuple[str, str] | None:
    """The sides of the binary operation at an instruction; none before Python 3.11, which has no places."""
    if sys.version_info < (3, 11):
        return None
    first, last, left, right = next(
        islice(code.co_positions(), instruction // 2, None), (None,) * 4
    )
    if first is None or first != last or left is None or right is None:
        return None
    text = linecache.getline(code.co_filename, first).encode()[left:right].decode(errors="ignore")
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (ValueError, SyntaxError, SystemError):
        return None
    return (
        (ast.unparse(node.left), ast.unparse(node.right)) if isinstance(node, ast.BinOp) else None
    )


def walked(error: BaseException) -> Iterator[FrameType]:
    """The frames below the user's of an exception, and of those behind it: the innermost first."""
    chain: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in chain:
        chain.append(each)
        each = each.__cause__ or each.__context__
    for behind in reversed(chain):
        for frame, _ in reversed(list(traceback.walk_tb(behind.__traceback__))):
            filename = frame.f_code.co_filename
            if is_users(filename) or REWRITTEN in filename:
                break
            yield frame


def within(tensor: Any) -> list[Any]:
    """The tensors that one was computed from; none in eager mode, which does not keep them."""
    operation = getattr(tensor, "op", None)
    if operation is None:
        return []
    if operation.type == "Placeholder":
        captured = getattr(operation.graph, "captures", ())
        return [outside for outside, inside in captured if inside is tensor]
    return list(operation.inputs)


def made_at(tensor: Any, users: Sequence[Frame]) -> str | None:
    """The line of the user's that a tensor of a graph comes from, next to where it is used.

    Of the calls that made it, that is the innermost which is still going on in `users`.
    """
    operation = getattr(tensor, "op", None)
    if operation is None:
        return None
    if operation.type == "Placeholder":
        outside = within(tensor)
        return made_at(outside[0], users) if outside else None
    calls = [each for each in operation.traceback if is_users(each.filename)]
    going_on = {(each.filename, each.function) for each in users}
    shared = [each for each in calls if (each.filename, each.name) in going_on]
    if not calls:
        return None
    call = (shared or calls)[-1]
    return _place(call.filename, int(call.lineno))


def assigned(tensor: Any, users: Sequence[Frame]) -> str | None:
    """The line that gave a tensor the name which it has in one of `users`, if there is just one."""
    for frame in reversed(users):
        for name, held in frame.names.items():
            if held is tensor and (row := _assignment(frame, name)) is not None:
                return _place(frame.filename, row)
    return None


def _assignment(frame: Frame, name: str) -> int | None:
    text = "".join(linecache.getlines(frame.filename))
    try:
        tree: ast.AST = ast.parse(text)
    except (ValueError, SyntaxError, SystemError):
        return None
    if frame.function != _OUTERMOST:
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        around = [
            each
            for each in ast.walk(tree)
            if isinstance(each, functions)
            and each.name == frame.function
            and each.lineno <= frame.row <= (each.end_lineno or each.lineno)
        ]
        if not around:
            return None
        tree = around[-1]
    rows = {
        each.lineno
        for each in ast.walk(tree)
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store) and each.id == name
    }
    rows.discard(frame.row)
    return next(iter(rows)) if len(rows) == 1 else None


def _place(filename: str, row: int) -> str:
    path, here = Path(filename).absolute(), Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{row}"

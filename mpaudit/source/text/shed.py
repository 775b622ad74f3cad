"""Functions of which only the name is left: what nobody has executed is dropped, and parsed anew when it is
asked for.

The body of a function takes some hundred times the memory of its text, its parameters with what is said of
their types take nearly as much, and of what a program imports most functions are never called. The function
itself stays the node that it is, by which it is known.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Container, Iterable, Iterator
from typing import TypeGuard

from mpaudit.source.text.walk import blocks, children, same_fields

LEAST = 4
"""Functions of fewer lines stay as they are: dropping what they hold frees too little."""

AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef
Load = Callable[[AnyFunction], AnyFunction]
"""Parses a function anew."""


def _asked(part: str) -> property:
    """A part of a bare function; once it is asked for, the function is whole, a node like others."""
    return property(lambda bare: getattr(_whole(bare), part))


class FunctionDef(ast.FunctionDef):
    """A bare function, named as what it stands for: nodes are told apart by such names."""

    __slots__ = ()
    args, body, returns = map(_asked, ("args", "body", "returns"))


class AsyncFunctionDef(ast.AsyncFunctionDef):
    """The same, of an `async def`."""

    __slots__ = ()
    args, body, returns = map(_asked, ("args", "body", "returns"))


_BARE: dict[type[ast.AST], type[ast.AST]] = {
    ast.FunctionDef: FunctionDef,
    ast.AsyncFunctionDef: AsyncFunctionDef,
}
_WHOLE = {bare: kind for kind, bare in _BARE.items()}
for _kind, _bare in _BARE.items():
    same_fields(_bare, _kind)


def is_bare(node: ast.AST) -> TypeGuard[AnyFunction]:
    """Whether parameters and body of a function are dropped."""
    return type(node) in _WHOLE


def outside(function: AnyFunction) -> list[ast.AST]:
    """The parts of a function that it never loses."""
    types: list[ast.AST] = getattr(function, "type_params", [])
    return [*function.decorator_list, *types]


def inside(function: AnyFunction) -> list[ast.AST]:
    """The others."""
    returns = [] if function.returns is None else [function.returns]
    return [function.args, *function.body, *returns]


def parents(tree: ast.AST) -> dict[ast.AST, ast.AST]:
    """The parent of every node below another."""
    parents: dict[ast.AST, ast.AST] = {}
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        parts = children(node) if not is_bare(node) else outside(node)
        for part in parts:
            parents[part] = node
        waiting += parts
    return parents


def outer(tree: ast.Module) -> Iterator[AnyFunction]:
    """The functions of a module and the methods of its classes, not what is defined inside of them."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, AnyFunction):
            yield node
        else:
            waiting += blocks(node)


def shed(functions: Iterable[AnyFunction], executed: Container[ast.stmt], load: Load) -> None:
    """Drop what is inside of functions of which nothing was executed; `load` is asked for it again."""
    for node in functions:
        kind = _BARE.get(type(node))
        if kind is None or (node.end_lineno or 0) - node.lineno < LEAST:
            continue
        if node.body[0] not in executed:
            del node.args, node.body, node.returns
            node.__class__ = kind  # type: ignore[assignment]
            node.load = load  # type: ignore[union-attr]


def _whole(bare: AnyFunction) -> AnyFunction:
    load: Load = bare.__dict__.pop("load")
    bare.__class__ = _WHOLE[type(bare)]  # type: ignore[assignment]
    found = load(bare)
    bare.args, bare.body, bare.returns = found.args, found.body, found.returns
    return bare


def again(text: str, row: int, *, indented: bool) -> AnyFunction:
    """The function that a text is, which starts in a row.

    Every node stands where it stands in the whole text.
    """
    lead = "\n" * (row - 2) + "if 1:\n" if indented else "\n" * (row - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = ast.parse(lead + text).body[0]
    function = first.body[0] if isinstance(first, ast.If) else first
    assert isinstance(function, AnyFunction)
    return function

"""Where control can leave a pass of the loop, or go around what follows, in the text of a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TypeGuard

from msgspec import Struct

from mpaudit.finding import Span
from mpaudit.source.text.module import Module
from mpaudit.source.text.walk import walk

_LEAVES = (ast.Continue, ast.Return)

GUARDED = (0, "@guarded")
"""Where a path keeps whether the guard that it met last rests on what changes from pass to pass."""


class Guard(Struct, frozen=True):
    """Where control may go around what follows.

    `finite` says that the guard asks whether numbers are finite, `beside` that it stands under no other
    condition than the place it follows.
    """

    span: Span
    test: ast.expr
    finite: bool
    beside: bool


def guard_after(module: Module, node: ast.AST) -> Guard | None:
    """The first guard below `node` before an update: the `continue` in it, or the test around a step."""
    statement = first = module.statement(node)
    while not isinstance(statement, (ast.For, ast.While, ast.FunctionDef, ast.AsyncFunctionDef)):
        parent = module.parents.get(statement)
        if parent is None:
            break
        for block in (getattr(parent, name, None) for name in ("body", "orelse", "finalbody")):
            if isinstance(block, list) and statement in block:
                for below in block[block.index(statement) + 1 :]:
                    if isinstance(below, ast.If) and (place := _guards(below)) is not None:
                        span, finite = module.span(place), _asks_finite(below.test)
                        return Guard(span, below.test, finite, statement is first)
                    if _calls(below, "update"):
                        return None
        if not isinstance(parent, ast.stmt):
            break
        statement = parent
    return None


def left_if_infinite(module: Module, node: ast.AST) -> tuple[Span, Span] | None:
    """The test whether the norm that `node` returns is finite, and the `continue` where it is not."""
    statement, guard = module.statement(node), guard_after(module, node)
    test = module.parents.get(guard.test) if guard is not None else None
    if not isinstance(statement, ast.Assign) or not isinstance(test, ast.If):
        return None
    kept = {each.id for target in statement.targets for each in walk(target) if _is_name(each)}
    if kept.isdisjoint(each.id for each in walk(test.test) if _is_name(each)):
        return None
    last = test.body[-1]
    if not isinstance(last, ast.Continue) or not _asks_infinite(test.test):
        return None
    if any(_calls(each, "update") for each in test.body):
        return None
    return module.span(test.test), module.span(last)


def left_without_update(module: Module, clip: ast.stmt) -> Iterator[ast.stmt]:
    """The `continue` and `return` of guards below a clip that ask what it returned, or for finite numbers.

    Those that leave the pass without a step, and the scaler not updated.
    """
    targets = clip.targets if isinstance(clip, ast.Assign) else []
    kept = {each.id for target in targets for each in walk(target) if _is_name(each)}
    node: ast.AST = clip
    while (guard := guard_after(module, node)) is not None:
        node = module.parents[guard.test]
        if not isinstance(node, ast.If):
            return
        asked = {each.id for each in walk(guard.test) if _is_name(each)}
        for block in (node.body, node.orelse):
            acts = any(_calls(each, name) for each in block for name in ("step", "update"))
            if block and isinstance(block[-1], _LEAVES) and not acts:
                if guard.finite or not kept.isdisjoint(asked):
                    yield block[-1]


def _is_name(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name)


def _asks_infinite(test: ast.expr) -> bool:
    """`not isfinite(norm)`, `isnan(norm) or isinf(norm)`."""
    match test:
        case ast.BoolOp(op=ast.Or(), values=values):
            return any(_asks_infinite(each) for each in values)
        case ast.UnaryOp(op=ast.Not(), operand=ast.Call(func=function)):
            return ast.unparse(function).endswith("isfinite")
        case ast.Call(func=function):
            return ast.unparse(function).endswith("isinf")
    return False


def _guards(statement: ast.If) -> ast.AST | None:
    for block in (statement.body, statement.orelse):
        if block and isinstance(block[-1], _LEAVES):
            return block[-1]
    sides = (statement.body, statement.orelse)
    steps = [any(_calls(each, "step") for each in side) for side in sides]
    return statement.test if any(steps) and not all(steps) else None


def _asks_finite(test: ast.expr) -> bool:
    names = {n.attr for n in walk(test) if isinstance(n, ast.Attribute)}
    names |= {n.id for n in walk(test) if isinstance(n, ast.Name)}
    return not names.isdisjoint(("isfinite", "isnan", "isinf"))


def _calls(node: ast.AST, method: str) -> bool:
    return any(
        isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr == method
        for n in walk(node)
    )

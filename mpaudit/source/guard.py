"""Where control can leave a pass of the loop, or go around what follows, in the text of a function."""

from __future__ import annotations

import ast

from mpaudit.finding import Span
from mpaudit.source.module import Module
from mpaudit.source.walk import walk

_LEAVES = (ast.Continue, ast.Return)


def guard_after(module: Module, node: ast.AST) -> tuple[Span | None, bool]:
    """The first guard below `node` before an update: the `continue` in it, or the test around a step.

    With it comes whether it asks if numbers are finite.
    """
    statement = module.statement(node)
    while not isinstance(statement, (ast.For, ast.While, ast.FunctionDef, ast.AsyncFunctionDef)):
        parent = module.parents.get(statement)
        if parent is None:
            break
        for block in (getattr(parent, name, None) for name in ("body", "orelse", "finalbody")):
            if isinstance(block, list) and statement in block:
                for below in block[block.index(statement) + 1 :]:
                    if isinstance(below, ast.If) and (place := _guards(below)) is not None:
                        return module.span(place), _asks_finite(below.test)
                    if _calls(below, "update"):
                        return None, False
        if not isinstance(parent, ast.stmt):
            break
        statement = parent
    return None, False


def _guards(statement: ast.If) -> ast.AST | None:
    for block in (statement.body, statement.orelse):
        if block and isinstance(block[-1], _LEAVES):
            return block[-1]
    around = any(_calls(each, "step") for each in statement.body)
    return statement.test if around and not statement.orelse else None


def _asks_finite(test: ast.expr) -> bool:
    names = {n.attr for n in walk(test) if isinstance(n, ast.Attribute)}
    names |= {n.id for n in walk(test) if isinstance(n, ast.Name)}
    return not names.isdisjoint(("isfinite", "isnan", "isinf"))


def _calls(node: ast.AST, method: str) -> bool:
    return any(
        isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr == method
        for n in walk(node)
    )

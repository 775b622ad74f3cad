"""Repairs of 16-bit tensors that go where they cannot: a cast to float32 on the way."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.registry import Context, repairs
from mpaudit.source.text.module import Module

_TWO = frozenset(["solve", "lstsq", "cdist", "cholesky_solve", "solve_triangular"])
"""Functions of two tensors, which must be of one dtype."""


@repairs("bfloat16-to-numpy", "linalg-in-half")
def cast_first(context: Context) -> Fix | None:
    """Insert `.float()`: before `.numpy()` and its `.cpu()`, or behind the arguments."""
    module, node = context.module, context.node(ast.Call)
    if not isinstance(node, ast.Call) or context.subject("how") == "held":
        return None
    count = 1
    if context.subject("how") == "method":
        if not isinstance(node.func, ast.Attribute):
            return None
        tensors = [_before_cpu(node.func.value)]
    else:
        count = 2 if ast.unparse(node.func).rpartition(".")[2] in _TWO else 1
        tensors = node.args[:count]
    edits = [edit for tensor in tensors for edit in _cast(module, tensor)]
    if len(edits) < count:
        return None
    return Fix("Cast to float32 first", tuple(edits), Safety.SAFE)


def _before_cpu(node: ast.expr) -> ast.expr:
    """The expression in front of a trailing `.cpu()`: the cast costs less on the device."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr == "cpu" and not node.args and not node.keywords:
            return node.func.value
    return node


def _cast(module: Module, node: ast.expr) -> list[Edit]:
    start, end = module.range(node)
    if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript, ast.Call)):
        return [Edit(end, end, ".float()")]
    if isinstance(node, (ast.BinOp, ast.UnaryOp)):
        opened = module.text[start - 1 : start] + module.text[end : end + 1]
        if opened == "()" and not isinstance(module.parents[node], ast.Call):
            return [Edit(end + 1, end + 1, ".float()")]
        return [Edit(start, start, "("), Edit(end, end, ").float()")]
    return []

"""Repairs of numbers and averages that are kept in 16 bits: float32 from the start."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.keras_half import without_dtype
from mpaudit.source.repair.registry import Context, repairs
from mpaudit.source.text.module import Module

_METHODS = ("half", "bfloat16")
_DTYPES = ("half", "float16", "bfloat16")


@repairs("half-accumulator")
def in_float32(context: Context) -> Fix | None:
    """`torch.zeros((), dtype=torch.half)` -> `torch.zeros((), dtype=torch.float32)`."""
    module = context.module
    if context.subject("metric"):
        call = context.node(ast.Call)
        if not isinstance(call, ast.Call):
            return None
        return without_dtype(module, call, "Keep the metric in float32", Safety.SUGGESTION)
    related = [each.span for each in context.problem.related]
    if len(related) != 1 or related[0].filename != context.problem.span.filename:
        return None
    node = module.node_at(related[0], ast.Call)
    if not isinstance(node, ast.Call):
        return None
    if context.subject("average") and not _is_copy(node):
        return None
    edit = _edit(module, node)
    return None if edit is None else Fix("Keep it in float32", (edit,), Safety.SUGGESTION)


def _is_copy(node: ast.Call) -> bool:
    """Whether a cast is one of a copy of a model, `copy.deepcopy(model).half()`."""
    return isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Call)


def _edit(module: Module, node: ast.Call) -> Edit | None:
    if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS and not node.args:
        _, end = module.range(node.func)
        return Edit(end - len(node.func.attr), end, "float")
    given = [k.value for k in node.keywords if k.arg == "dtype"] or node.args[-1:]
    if not given or not isinstance(given[0], ast.Attribute) or given[0].attr not in _DTYPES:
        return None
    _, end = module.range(given[0])
    return Edit(end - len(given[0].attr), end, "float32")

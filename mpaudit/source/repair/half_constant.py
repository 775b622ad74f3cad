"""Repairs of constants that float16 cannot hold: the limit is taken from the tensor."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.module import Module
from mpaudit.source.repair.registry import Context, repairs
from mpaudit.source.walk import walk

MASKING = frozenset(["masked_fill", "masked_fill_", "index_fill", "index_fill_", "where"])
"""Calls whose constant stands for "never": any other that is as large does as well."""


@repairs("half-overflow-constant")
def within_range(context: Context) -> Fix | None:
    """`-1e9` -> `torch.finfo(scores.dtype).min`, where the constant stands in the call itself."""
    module, call = context.module, context.node(ast.Call)
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return None
    name, tensor = call.func.attr, context.subject("tensor")
    torch = spelling_of_torch(module)
    if name not in MASKING or torch is None or not tensor or not simple(tensor):
        return None
    constants = [
        argument
        for argument in [*call.args, *(keyword.value for keyword in call.keywords)]
        if _large(argument) is not None
    ]
    if len(constants) != 1:
        return None
    (constant,) = constants
    end = "min" if (_large(constant) or 0) < 0 else "max"
    edit = Edit(*module.range(constant), f"{torch}.finfo({tensor}.dtype).{end}")
    return Fix("Take the limit of the tensor's own dtype", (edit,), Safety.SAFE)


def _large(node: ast.expr) -> float | None:
    """The value of a literal beyond float16's range."""
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    large = isinstance(value, int | float) and 65504 < abs(value) < float("inf")
    return float(value) if large else None


def simple(text: str) -> bool:
    """Whether an expression can be written twice: a name, or attributes of one."""
    node = ast.parse(text, mode="eval").body
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def spelling_of_torch(module: Module) -> str | None:
    """What `torch` is called in this file."""
    for node in walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "torch" or (alias.name.startswith("torch.") and not alias.asname):
                    return alias.asname or "torch"
    return None

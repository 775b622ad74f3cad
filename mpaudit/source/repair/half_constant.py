"""Repairs of constants that float16 cannot hold: the limit is taken from the tensor."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.registry import Context, repairs
from mpaudit.source.text.module import Module
from mpaudit.source.text.walk import walk

MASKING = frozenset(["masked_fill", "masked_fill_", "index_fill", "index_fill_", "where"])
"""Calls whose constant stands for "never": any other that is as large does as well."""


@repairs("half-overflow-constant")
def within_range(context: Context) -> Fix | None:
    """`-1e9` -> `torch.finfo(scores.dtype).min`, where the constant stands in the call itself."""
    if context.subject("library") == "tensorflow":
        return _in_tensorflow(context)
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


def _in_tensorflow(context: Context) -> Fix | None:
    """`tf.where(m, x, -1e9)` -> `tf.where(m, x, x.dtype.min)`; `(1.0 - m) * -1e9` is only shown."""
    module, node, tensor = context.module, context.node(), context.subject("tensor")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and tensor:
        constants = [each for each in node.args[1:] if _large(each) is not None]
        own = node.func.attr == "where" and module.source(node.func.value) == "tf"
        if not own or len(constants) != 1 or not simple(tensor):
            return None
        end = "min" if (_large(constants[0]) or 0) < 0 else "max"
        edit = Edit(*module.range(constants[0]), f"{tensor}.dtype.{end}")
        return Fix("Take the limit of the tensor's own dtype", (edit,), Safety.SAFE)
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
        return None
    for mask, constant in ((node.left, node.right), (node.right, node.left)):
        name = mask.right if isinstance(mask, ast.BinOp) else None
        if (_large(constant) or 0) < 0 and isinstance(name, (ast.Name, ast.Attribute)):
            edit = Edit(*module.range(constant), f"{module.source(name)}.dtype.min / 2")
            message = "Take half of what the mask's dtype ends at, which leaves room for the scores"
            return Fix(message, (edit,), Safety.SUGGESTION)
    return None


def _large(node: ast.expr) -> float | None:
    """The value of a literal beyond float16's range."""
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    large = isinstance(value, (int, float)) and 65504 < abs(value) < float("inf")
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

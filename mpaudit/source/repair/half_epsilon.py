"""Repairs of epsilons that float16 does not have."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.half_constant import simple, spelling_of_torch
from mpaudit.source.repair.registry import Context, repairs
from mpaudit.source.text.walk import walk


@repairs("half-underflow-epsilon")
def epsilon_of_the_dtype(context: Context) -> Fix | None:
    """`x + 1e-8` -> `x + torch.finfo(x.dtype).eps`, where the tensor has a name."""
    if context.subject("library") == "tensorflow":
        message = "Cast to float32 first, `tf.cast(x, tf.float32)`, or take 1e-3 and more"
        return Fix(message, (), Safety.SUGGESTION)
    module, node = context.module, context.node(ast.expr)
    tensor, constant = context.subject("tensor"), context.subject("constant")
    if node is None or not tensor or not simple(tensor):
        return None
    torch = spelling_of_torch(module)
    found = [
        each
        for each in walk(node)
        if isinstance(each, ast.Constant) and module.source(each) == constant
    ]
    if len(found) != 1 or torch is None:
        return None
    edit = Edit(*module.range(found[0]), f"{torch}.finfo({tensor}.dtype).eps")
    return Fix("Take an epsilon that the dtype has", (edit,), Safety.SUGGESTION)

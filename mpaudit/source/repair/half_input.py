"""Repairs of casts that autocast makes needless."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.registry import Context, repairs


@repairs("manual-half-cast")
def drop_cast(context: Context) -> Fix | None:
    """`model(x.half())` -> `model(x)`, where the cast stands in the call itself."""
    module, cast = context.module, context.node(ast.Call)
    if not isinstance(cast, ast.Call) or not isinstance(cast.func, ast.Attribute):
        return None
    around = module.parents.get(cast)
    if isinstance(around, ast.keyword):
        around = module.parents.get(around)
    if cast.func.attr != "half" or not isinstance(around, ast.Call) or around is cast:
        return None
    if ast.unparse(around.func) != context.subject("model"):
        return None
    edit = Edit(module.range(cast.func.value)[1], module.range(cast)[1], "")
    return Fix("Leave the cast to autocast", (edit,), Safety.SAFE)

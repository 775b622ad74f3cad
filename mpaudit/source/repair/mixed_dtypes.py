"""Repairs of mixed dtypes: a cast where the tensor is used."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.half_constant import simple
from mpaudit.source.repair.registry import Context, repairs
from mpaudit.source.text.walk import walk

_Tensor = ast.Name | ast.Attribute | ast.Subscript | ast.Call


@repairs("half-into-disabled-autocast")
def to_float32(context: Context) -> Fix | None:
    """`criterion(output, target)` -> `criterion(output.float(), target)`."""
    module, call = context.module, context.node(ast.Call)
    if not isinstance(call, ast.Call) or not call.args:
        return None
    given = call.args[0]
    if not isinstance(given, _Tensor) or module.source(given) != context.subject("tensor"):
        return None
    end = module.range(given)[1]
    return Fix("Cast it to float32", (Edit(end, end, ".float()"),), Safety.SAFE)


@repairs("inplace-dtype-mismatch")
def to_target(context: Context) -> Fix | None:
    """`out[mask] = values` -> `out[mask] = values.to(out.dtype)`."""
    module, statement = context.module, context.statement_at(context.problem.span)
    target, source = context.subject("target"), context.subject("source")
    if statement is None or not target or not simple(target):
        return None
    found = [
        node
        for node in walk(statement)
        if isinstance(node, _Tensor) and " ".join(module.source(node).split()) == source
    ]
    if len(found) != 1:
        return None
    end = module.range(found[0])[1]
    edit = Edit(end, end, f".to({target}.dtype)")
    return Fix("Cast the values to the dtype of the target", (edit,), Safety.SAFE)

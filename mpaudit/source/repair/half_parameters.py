"""Repairs of parameters that are in half precision."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.keras_half import without_dtype
from mpaudit.source.repair.registry import Context, repairs


@repairs("half-parameters")
def suggest_autocast(context: Context) -> Fix | None:
    """What is right depends on the memory there is: shown, never applied."""
    call = context.node(ast.Call)
    if context.subject("variable") is not None:
        message = "Leave the variable in float32; Keras casts weights to the dtype that a layer computes in"
        if not isinstance(call, ast.Call):
            return None
        return without_dtype(context.module, call, message, Safety.SUGGESTION)
    message = (
        "Leave the parameters in float32 and run the forward pass under "
        "`torch.autocast(device, dtype=torch.bfloat16)`"
    )
    return Fix(message, (), Safety.SUGGESTION)


@repairs("adam-epsilon-in-half")
def larger_epsilon(context: Context) -> Fix | None:
    """Give the constructor `eps=1e-4`, or put it in place of the constant that is there."""
    module, node = context.module, context.node(ast.Call)
    if not isinstance(node, ast.Call) or len(node.args) > 3:
        return None
    if any(keyword.arg is None for keyword in node.keywords):
        return None
    if any(isinstance(argument, ast.Starred) for argument in node.args):
        return None
    given = next((keyword.value for keyword in node.keywords if keyword.arg == "eps"), None)
    if isinstance(given, ast.Constant):
        edit = Edit(*module.range(given), "1e-4")
    elif given is None and (node.args or node.keywords):
        given_all: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
        end = max(module.range(each)[1] for each in given_all)
        edit = Edit(end, end, ", eps=1e-4")
    else:
        return None
    return Fix("Give the optimizer an epsilon that float16 can hold", (edit,), Safety.SAFE)

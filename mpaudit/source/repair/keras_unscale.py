"""Gradients of a Keras tape, unscaled where that was forgotten."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.protocols.keras_scaling_problems import SCALED
from mpaudit.source.repair.registry import Context, insert_after, repairs
from mpaudit.source.repair.tape_call import (
    assigned,
    calls_of,
    conditions,
    function_around,
    inside,
    many,
    receiver,
    related_call,
)


@repairs("missing-gradient-unscale")
def unscale(context: Context) -> Fix | None:
    """Divide the gradients where they are taken, under the condition that the loss is scaled under."""
    module, optimizer = context.module, context.subject("optimizer") or ""
    taken, applied = related_call(module, context.problem, SCALED), context.node(ast.Call)
    if context.subject("keras") != "2" or taken is None or not isinstance(applied, ast.Call):
        return None
    function = function_around(module, taken)
    if function is not function_around(module, applied) or not many(taken):
        return None
    scaled = [
        call
        for call in calls_of(function, "get_scaled_loss")
        if receiver(call) == optimizer and conditions(module, call) <= conditions(module, taken)
    ]
    if len(scaled) != 1 or conditions(module, applied) != conditions(module, taken):
        return None
    edits: list[Edit] | None = None
    if inside(applied, taken):
        start, end = module.range(taken)
        edits = [
            Edit(start, start, f"{optimizer}.get_unscaled_gradients("),
            Edit(end, end, ")"),
        ]
    elif (name := assigned(module, taken)) is not None:
        line = f"{name} = {optimizer}.get_unscaled_gradients({name})"
        edit = insert_after(module, module.statement(taken), line)
        edits = None if edit is None else [edit]
    return Fix("Unscale the gradients", tuple(edits), Safety.SAFE) if edits else None

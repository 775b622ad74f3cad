"""Repairs of a Keras policy that does not belong where it is: shown, never applied."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.registry import Context, repairs


@repairs("misplaced-policy")
def another_policy(context: Context) -> Fix | None:
    """`set_global_policy("mixed_float16")` -> `"mixed_bfloat16"` for a TPU."""
    if context.subject("hardware") != "tpu":
        message = (
            "Build the model again under the policy float32, and load its weights: "
            "`model.load_weights(path)`"
        )
        return Fix(message, (), Safety.SUGGESTION)
    module, call = context.module, context.node(ast.Call)
    given = call.args[0] if isinstance(call, ast.Call) and call.args else None
    if not isinstance(given, ast.Constant):
        return None
    edit = Edit(*module.range(given), f"{module.quote}mixed_bfloat16{module.quote}")
    return Fix("Take bfloat16 on a TPU", (edit,), Safety.SUGGESTION)

"""Repairs where losses are not scaled alike."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.registry import Context, repairs


@repairs("inconsistent-loss-scaling")
def scale_the_other_loss(context: Context) -> Fix | None:
    """`loss.backward()` -> `scaler.scale(loss).backward()` for the loss that was left out."""
    module, node = context.module, context.node(ast.Call)
    scaler, loss = context.subject("scaler"), context.subject("loss")
    if scaler is None or loss is None or not isinstance(node, ast.Call):
        return None
    if not isinstance(node.func, ast.Attribute) or node.func.attr != "backward":
        return None
    start, end = module.range(node.func.value)
    edit = Edit(start, end, f"{scaler}.scale({loss})")
    return Fix(f"Run backward on `{scaler}.scale({loss})`", (edit,), Safety.SAFE)

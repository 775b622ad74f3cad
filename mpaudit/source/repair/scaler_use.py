"""Repairs of what a GradScaler is used with."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.library.torch.scaler_switch import BFLOAT16
from mpaudit.source.repair.registry import Context, repairs
from mpaudit.source.text.module import Module

_STATE = ("_scale", "_growth_tracker", "_per_optimizer_states", "_found_inf_per_device")


@repairs("scaler-with-bfloat16")
def switch_off(context: Context) -> Fix | None:
    """`GradScaler("cuda")` -> `GradScaler("cuda", enabled=False)`."""
    module, call = context.module, context.node(ast.Call)
    if not isinstance(call, ast.Call) or len(call.args) > 1:
        return None
    if not ast.unparse(call.func).endswith("GradScaler") or _reads_state(module):
        return None
    edit = None
    for keyword in call.keywords:
        if keyword.arg is None:
            return None
        if keyword.arg == "enabled":
            if not isinstance(keyword.value, ast.Constant):
                return _without(keyword.value, module)
            edit = Edit(*module.range(keyword.value), "False")
    if edit is None:
        parts = [*call.args, *(keyword.value for keyword in call.keywords)]
        _, end = module.range(parts[-1] if parts else call.func)
        if parts:
            edit = Edit(end, end, ", enabled=False")
        else:
            at = module.text.index("(", end) + 1
            edit = Edit(at, at, "enabled=False")
    return Fix("Switch the scaler off: bfloat16 needs none", (edit,), Safety.SAFE)


def _without(switch: ast.expr, module: Module) -> Fix | None:
    """`enabled=dtype in ["float16", "bfloat16"]` -> `enabled=dtype in ["float16"]`."""
    match switch:
        case ast.Compare(ops=[ast.In()], comparators=[ast.List(elts=elts) | ast.Set(elts=elts)]):
            taken = [ast.unparse(each).strip("\"'") in BFLOAT16 for each in elts]
            if sum(taken) != 1 or len(elts) < 2:
                return None
            place = taken.index(True)
            start, end = module.range(elts[place])
            if place:
                start = module.range(elts[place - 1])[1]
            else:
                end = module.range(elts[1])[0]
            edit = Edit(start, end, "")
            return Fix("Switch the scaler off in bfloat16", (edit,), Safety.SAFE)
    return None


def _reads_state(module: Module) -> bool:
    """Whether a file reads what a scaler has only while it is switched on."""
    return any(each.attr in _STATE for each in module.every(ast.Attribute))


@repairs("scaled-gradient-read")
def suggest_unscale(context: Context) -> Fix:
    """Where `unscale_` belongs depends on what else unscales in the iteration: shown, never applied."""
    message = (
        "Call `scaler.unscale_(optimizer)` once before the gradients are read; `scaler.step()` "
        "will not divide them again"
    )
    if "accelerator" in dict(context.problem.subjects):
        accelerator = context.subject("accelerator") or "accelerator"
        message = (
            f"Read the gradients behind `{accelerator}.clip_grad_norm_(...)`, which returns their norm, or "
            f"behind `{accelerator}.unscale_gradients()`: one of the two, once for each step"
        )
    return Fix(message, (), Safety.SUGGESTION)


@repairs("scaled-loss-logged")
def suggest_loss(_: Context) -> Fix:
    """Which name holds the loss itself, if any still does, only the author knows."""
    message = (
        "Keep the loss under a name of its own, and read that: `scaler.scale(loss).backward()` "
        "leaves `loss` as it is"
    )
    return Fix(message, (), Safety.SUGGESTION)


@repairs("sanitized-gradients")
def suggest_skipped_step(_: Context) -> Fix:
    """Whether a step that overflows is to be skipped, or taken without it, only the author knows."""
    message = (
        "Leave the gradients as they are: `scaler.step()` skips a step that overflows, and "
        "`scaler.update()` lowers the scale; or replace what is not finite after `scaler.unscale_(optimizer)`"
    )
    return Fix(message, (), Safety.SUGGESTION)


@repairs("scaled-gradient-penalty")
def suggest_division(_: Context) -> Fix:
    """The gradients may come as a tuple, one by one, or unpacked: shown, never applied."""
    message = (
        "Divide the gradients by the scale before the penalty is computed: "
        "`grads = [g / scaler.get_scale() for g in grads]`"
    )
    return Fix(message, (), Safety.SUGGESTION)

"""The LossScaleOptimizer around an optimizer: taken away, or put there."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.keras_loop import wrap_optimizer
from mpaudit.source.repair.registry import Context, alone, lines_of, repairs
from mpaudit.source.text.module import Module

OF_THE_WRAPPER = frozenset(
    ["dynamic_growth_steps", "dynamic_scale", "initial_scale", "inner_optimizer", "step_counter"]
)
"""Attributes that a LossScaleOptimizer has, and no optimizer inside one."""


@repairs("double-loss-scaling")
def unwrap_outer(context: Context) -> Fix | None:
    """`LossScaleOptimizer(model.optimizer)` -> `model.optimizer`."""
    if context.subject("inner") is None:
        return None
    edits = _unwrapped(context)
    return Fix("Use it as it is", tuple(edits), Safety.SUGGESTION) if edits else None


@repairs("needless-loss-scale")
def unwrap(context: Context) -> Fix | None:
    """`LossScaleOptimizer(Adam())` -> `Adam()`, `Adam(loss_scale_factor=1024)` -> `Adam()`.

    Only for Keras 3: its plain optimizers have `scale_loss` too. Where no policy is set, it may be the
    policy that was forgotten.
    """
    call = context.node(ast.Call)
    if context.subject("keras") != "3" or not isinstance(call, ast.Call):
        return None
    if not context.subject("policy"):
        return None
    if any(node.attr in OF_THE_WRAPPER for node in context.module.every(ast.Attribute)):
        return None  # what asks for them would fail
    factor = next((k for k in call.keywords if k.arg == "loss_scale_factor"), None)
    edits = _unwrapped(context) if factor is None else _without(context.module, call, factor)
    return Fix("Leave the loss scaling out", tuple(edits), Safety.UNSAFE) if edits else None


@repairs("per-layer-policy-unscaled")
def wrap(context: Context) -> Fix | None:
    """`Adam()` -> `LossScaleOptimizer(Adam())`, where `fit` does the rest."""
    call = context.node(ast.Call)
    if not isinstance(call, ast.Call) or "apply" in ast.unparse(call.func):
        return None
    edits = wrap_optimizer(context.module, context.problem)
    return Fix("Wrap the optimizer", tuple(edits), Safety.SUGGESTION) if edits else None


def _unwrapped(context: Context) -> list[Edit] | None:
    """Leave of a call its first argument."""
    call, module = context.node(ast.Call), context.module
    if not isinstance(call, ast.Call) or not call.args or isinstance(call.args[0], ast.Starred):
        return None
    (start, end), (first, last) = module.range(call), module.range(call.args[0])
    if "#" in module.text[start:first] or "#" in module.text[last:end]:
        return None  # a comment would go with it
    statement = module.statement(call)
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if value is call:
            if name == ast.unparse(call.args[0]) and alone(module, statement):
                return [Edit(*lines_of(module, statement), "")]
    return [Edit(start, first, ""), Edit(last, end, "")]


def _without(module: Module, call: ast.Call, keyword: ast.keyword) -> list[Edit] | None:
    """Leave a keyword argument out."""
    given = sorted([*call.args, *call.keywords], key=lambda each: module.range(each)[0])
    place = given.index(keyword)
    start, end = module.range(keyword)
    if place + 1 < len(given):
        end = module.range(given[place + 1])[0]
    elif place:
        start = module.range(given[place - 1])[1]
    return [Edit(start, end, "")]

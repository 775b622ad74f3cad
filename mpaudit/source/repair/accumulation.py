"""Repairs of gradient accumulation."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.registry import (
    Context,
    alone,
    block_of,
    insert_after,
    lines_of,
    repairs,
)


@repairs("mid-accumulation-step")
def zero_in_guard(context: Context) -> Fix | None:
    """Move zero_grad() into the guard that steps, behind the update."""
    module, zero = context.module, context.statement_at(context.problem.span)
    scaler = context.subject("scaler")
    if not isinstance(zero, ast.Expr) or scaler is None or not alone(module, zero):
        return None
    text = ast.unparse(zero)
    if ".zero_grad(" not in text:
        return None
    block = block_of(module, zero)
    guards = [
        each
        for each in block
        if isinstance(each, ast.If) and not each.orelse and _last(each, scaler) is not None
    ]
    if len(guards) != 1 or len(block) < 3:
        return None
    last = _last(guards[0], scaler)
    added = insert_after(module, last, text) if last is not None else None
    if added is None or any(".zero_grad(" in ast.unparse(each) for each in guards[0].body):
        return None
    edits = (Edit(*lines_of(module, zero), ""), added)
    return Fix("Drop the gradients once in a group, after the step", edits, Safety.SAFE)


@repairs("undivided-accumulation")
def suggest_division(_: Context) -> Fix:
    """Dividing changes the best learning rate: shown, never applied."""
    return Fix("Divide the loss by the number of micro-batches", (), Safety.SUGGESTION)


def _last(guard: ast.If, scaler: str) -> ast.stmt | None:
    """The update of the scaler in a guard that holds a step of it too."""
    texts = [ast.unparse(each) for each in guard.body]
    if not any(text.startswith(f"{scaler}.step(") for text in texts):
        return None
    if f"{scaler}.update()" not in texts:
        return None
    return guard.body[texts.index(f"{scaler}.update()")]


@repairs("guard-skips-update")
def suggest_update(context: Context) -> Fix | None:
    """Whether to drop the guard or to update in it is for the author to say."""
    scaler = context.subject("scaler")
    if scaler is None:
        return None
    message = (
        f"Remove the guard: `{scaler}.step()` skips such a step itself; or call "
        f"`{scaler}.update()` before leaving"
    )
    return Fix(message, (), Safety.SUGGESTION)

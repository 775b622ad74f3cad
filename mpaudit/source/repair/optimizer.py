"""Repairs where optimizers and scalers do not go together."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.registry import (
    Context,
    alone,
    block_of,
    indentation,
    lines_of,
    reindent,
    repairs,
)
from mpaudit.source.text.walk import walk


@repairs("mismatched-optimizer")
def suggest_unscale(context: Context) -> Fix | None:
    """An unscale_ is missing or names the wrong optimizer: shown, never applied."""
    scaler, optimizer = context.subject("scaler"), context.subject("optimizer")
    if scaler is None or optimizer is None:
        return None
    message = f"Call `{scaler}.unscale_({optimizer})` before the gradients are clipped"
    return Fix(message, (), Safety.SUGGESTION)


@repairs("scheduler-before-step")
def suggest_order(context: Context) -> Fix | None:
    """The order changes the learning rates of a run: shown, never applied."""
    scheduler = context.subject("scheduler")
    if scheduler is None:
        return None
    message = f"Move `{scheduler}.step()` behind the step of its optimizer"
    return Fix(message, (), Safety.SUGGESTION)


@repairs("scheduler-ignores-skipped-step")
def ask_the_scale(context: Context) -> Fix | None:
    """Compare the scale before and behind: it changes the schedule of a run, so it is only shown."""
    module, moved = context.module, context.statement_at(context.problem.span)
    scaler, related = context.subject("scaler"), context.problem.related
    stepped = context.statement_at(related[0].span) if related else None
    message = f"Move on only where `{scaler}.get_scale()` has not fallen"
    empty = Fix(message, (), Safety.SUGGESTION)
    if moved is None or stepped is None or related[0].span.filename != module.filename:
        return empty
    block = block_of(module, stepped)
    if moved not in block or not alone(module, moved) or not alone(module, stepped):
        return empty
    between = block[block.index(stepped) : block.index(moved)]
    if not any(_calls(each, "update") for each in between):
        return empty
    indent, newline = indentation(module, moved), module.newline
    first, _ = lines_of(module, stepped)
    start, end = lines_of(module, moved)
    body = reindent(module.text[start:end], indent, indent + "    ")
    edits = (
        Edit(first, first, f"{indent}scale = {scaler}.get_scale(){newline}"),
        Edit(start, end, f"{indent}if {scaler}.get_scale() >= scale:{newline}{body}"),
    )
    return Fix(message, edits, Safety.SUGGESTION)


@repairs("repeated-scaler-update")
def update_once(context: Context) -> Fix | None:
    """Remove the earlier update(), where another one follows the last step of the block."""
    module, update = context.module, context.statement_at(context.problem.span)
    scaler = context.subject("scaler")
    if update is None or scaler is None or not alone(module, update):
        return None
    block = block_of(module, update)
    rest = [ast.unparse(each) for each in block[block.index(update) + 1 :]]
    steps = [n for n, text in enumerate(rest) if text.startswith(f"{scaler}.step(")]
    if not steps or f"{scaler}.update()" not in rest[steps[-1] :]:
        return None
    edit = Edit(*lines_of(module, update), "")
    return Fix("Update once, after the last step", (edit,), Safety.SAFE)


@repairs("step-without-gradients")
def zero_before_backward(context: Context) -> Fix | None:
    """Move zero_grad() in front of the backward above it, in the same block."""
    module, related = context.module, context.problem.related
    zero = context.statement_at(related[0].span) if related else None
    if not isinstance(zero, ast.Expr) or not alone(module, zero):
        return None
    block = block_of(module, zero)
    above = block[: block.index(zero)]
    backwards = [each for each in above if _calls(each, "backward")]
    if len(backwards) != 1 or not isinstance(backwards[0], ast.Expr):
        return None
    if not alone(module, backwards[0]) or any(_calls(each, "unscale_") for each in above):
        return None
    start, end = lines_of(module, zero)
    place, _ = lines_of(module, backwards[0])
    text = module.text[start:end]
    if not text.endswith(("\n", "\r")):
        return None
    edits = (Edit(place, place, text), Edit(start, end, ""))
    return Fix("Drop the old gradients before backward", edits, Safety.SAFE)


def _calls(node: ast.AST, method: str) -> bool:
    return any(isinstance(n, ast.Attribute) and n.attr == method for n in walk(node))

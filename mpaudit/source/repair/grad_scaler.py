"""Repairs of the GradScaler protocol."""

from __future__ import annotations

import ast
from typing import TypeGuard

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.branch import unscaled
from mpaudit.source.repair.clipping import is_clip, is_count, unscaled_clips
from mpaudit.source.repair.registry import (
    Context,
    alone,
    block_of,
    indentation,
    insert_after,
    lines_of,
    reindent,
    repairs,
    spans_lines,
)
from mpaudit.source.text.module import Module
from mpaudit.source.text.walk import walk


@repairs("missing-grad-scaler")
def suggest_scaler(_: Context) -> Fix:
    """Two repairs are right, and which one only the author can say: shown, never applied."""
    message = (
        "Build `scaler = torch.amp.GradScaler(...)` before the loop and run "
        "`scaler.scale(loss).backward()`, `scaler.step(optimizer)`, `scaler.update()`; "
        "or use `dtype=torch.bfloat16`, which needs no scaler"
    )
    return Fix(message, (), Safety.SUGGESTION)


@repairs("missing-scaler-update")
def add_update(context: Context) -> Fix | None:
    """Insert `scaler.update()` below the last step of the block."""
    scaler, step = context.subject("scaler"), context.statement_at(context.problem.span)
    if scaler is None or step is None:
        return None
    if _updates_around(context.module, step, scaler):  # under a condition that it is to leave
        message = f"Call `{scaler}.update()` right after the step, whatever the condition"
        return Fix(message, (), Safety.SUGGESTION)
    last = step
    for other in block_of(context.module, step):
        if _is_call(other, scaler, "step"):
            last = other
    edit = insert_after(context.module, last, f"{scaler}.update()")
    if edit is None:
        return None
    return Fix(f"Call `{scaler}.update()` after the step", (edit,), Safety.SAFE)


@repairs("unscaled-backward")
def scale_loss(context: Context) -> Fix | None:
    """`loss.backward()` -> `scaler.scale(loss).backward()`; a scale() thrown away is removed."""
    module, node = context.module, context.node(ast.Call)
    scaler, loss = context.subject("scaler"), context.subject("loss")
    if scaler is None or loss is None or not isinstance(node, ast.Call):
        return None
    if not isinstance(node.func, ast.Attribute):
        return None
    start, end = module.range(node.func.value)
    edits = [Edit(start, end, f"{scaler}.scale({loss})")]
    for related in context.problem.related:
        thrown = context.statement_at(related.span)
        if thrown is not None and _is_call(thrown, scaler, "scale") and alone(module, thrown):
            edits.append(Edit(*lines_of(module, thrown), ""))
    clips = unscaled_clips(module, module.statement(node), scaler)
    if clips is None:
        return None
    edits += clips
    return Fix(f"Run backward on `{scaler}.scale({loss})`", tuple(edits), Safety.SAFE)


@repairs("unscaled-step")
def step_through_scaler(context: Context) -> Fix | None:
    """`optimizer.step()` -> `scaler.step(optimizer)`, where an update follows in the block."""
    module, node = context.module, context.node(ast.Call)
    optimizer = context.subject("optimizer")
    if optimizer is None or not isinstance(node, ast.Call) or node.args or node.keywords:
        return None
    statement = module.statement(node)
    scaler = _scaler_of(module, statement)
    if scaler is None:
        return None
    block = block_of(module, statement)
    before = block[: block.index(statement)]
    if any(_is_call(each, scaler, "step") and _steps_that(each, optimizer) for each in before):
        if not alone(module, statement):
            return None
        left_out = Edit(*lines_of(module, statement), "")
        return Fix(f"Leave the step to `{scaler}`", (left_out,), Safety.SAFE)
    edits = [Edit(*module.range(node), f"{scaler}.step({optimizer})")]
    after = _after(module, statement)
    for other in after:
        if _is_call(other, scaler, "step") and _steps_that(other, optimizer):
            if not alone(module, statement):
                return None
            edits = [Edit(*lines_of(module, statement), "")]
    if not any(_mentions(other, scaler, "update") for other in after):
        if _updates_around(module, statement, scaler):  # twice would be as wrong as not at all
            return None
        edit = insert_after(module, statement, f"{scaler}.update()")
        if edit is None:
            return None
        edits.append(edit)
    return Fix(f"Step through `{scaler}`", tuple(edits), Safety.SAFE)


@repairs("clip-before-unscale")
def unscale_first(context: Context) -> Fix | None:
    """Insert `scaler.unscale_(optimizer)` above the clip, where one optimizer is stepped."""
    module, clip = context.module, context.statement_at(context.problem.span)
    if ("by", "hook") in context.problem.subjects:  # it clips in each backward, wherever that is
        message = "Leave the hooks out, and clip after `scaler.unscale_(optimizer)`"
        return Fix(message, (), Safety.SUGGESTION)
    if clip is None or "after" in context.problem.message:
        return None
    function = _function_around(module, clip)
    steps = {
        (ast.unparse(node.func.value), ast.unparse(node.args[0])): node
        for node in walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "step"
        and len(node.args) == 1
    }
    if len(steps) != 1:
        return None
    (((scaler, optimizer), step),) = steps.items()
    clip = _around_parameters(module, clip)
    edits = unscaled(module, clip, step)
    if edits is None:
        return None
    block = block_of(module, clip)
    guard = next(iter(block[block.index(clip) + 1 :]), None)
    if isinstance(guard, ast.If) and is_count(guard.test) and _steps(guard, scaler):
        return _clip_in_guard(module, clip, guard, f"{scaler}.unscale_({optimizer})")
    late = [s for s in block[block.index(clip) + 1 :] if _is_call(s, scaler, "unscale_")]
    edits += [Edit(*lines_of(module, s), "") for s in late if alone(module, s)]
    return Fix(f"Unscale the gradients of `{optimizer}` first", tuple(edits), Safety.SAFE)


@repairs("double-unscale")
def unscale_in_guard(context: Context) -> Fix | None:
    """Move `unscale_` and the clip below it into the guard that steps."""
    module, unscale = context.module, context.statement_at(context.problem.span)
    scaler, optimizer = context.subject("scaler"), context.subject("optimizer")
    if unscale is None or scaler is None or optimizer is None:
        return None
    block = block_of(module, unscale)
    start = block.index(unscale)
    rest = block[start + 1 :]
    if context.problem.related:
        if len(context.problem.related) > 1:  # without this one statement there would be none
            message = f"Unscale `{optimizer}` once, before the calls"
            return Fix(message, (), Safety.SUGGESTION)
        if not alone(module, unscale):
            return None
        if len(block) == 1:
            return Fix("Leave out the division by hand", (), Safety.SUGGESTION)
        edit = Edit(*lines_of(module, unscale), "")
        return Fix("Remove the second unscale_", (edit,), Safety.SAFE)
    guard = next((s for s in rest if isinstance(s, ast.If) and _steps(s, scaler)), None)
    if guard is None or guard.orelse:
        return None
    moved = [unscale, *block[start + 1 : block.index(guard)]]
    clips = (ast.Expr, ast.Assign)
    if not all(isinstance(s, clips) and alone(module, s) for s in moved):
        return None
    if not all(is_clip(s) for s in moved[1:]):
        return None
    return _into_guard(
        module, moved, guard, first=True, message="Unscale and clip once, before the step"
    )


@repairs("update-before-step")
def update_in_guard(context: Context) -> Fix | None:
    """Move `update()` into the guard that steps, right below the step; leave out a second one."""
    module, update = context.module, context.statement_at(context.problem.span)
    scaler = context.subject("scaler")
    if update is None or scaler is None or not _is_call(update, scaler, "update"):
        return None
    block = block_of(module, update)
    others = [s for s in block if s is not update]
    guards = [s for s in others if isinstance(s, ast.If) and not s.orelse and _steps(s, scaler)]
    inner = [s for guard in guards for s in guard.body]
    if any(_is_call(s, scaler, "update") for s in (*others, *inner)):
        if not alone(module, update):
            return None
        return Fix("Update once", (Edit(*lines_of(module, update), ""),), Safety.SAFE)
    if len(guards) == 1 and alone(module, update):
        return _into_guard(
            module, [update], guards[0], first=False, message="Update after the step"
        )
    steps = [s for s in block[block.index(update) + 1 :] if _is_call(s, scaler, "step")]
    if not steps or not alone(module, update):
        return None
    added = insert_after(module, steps[-1], f"{scaler}.update()")
    if added is None:
        return None
    removed = Edit(*lines_of(module, update), "")
    return Fix("Update after the step", (removed, added), Safety.SAFE)


@repairs("scaler-in-loop")
def hoist_scaler(context: Context) -> Fix | None:
    """Move the constructor above the outermost loop around it."""
    module, made = context.module, context.statement_at(context.problem.span)
    if not isinstance(made, ast.Assign) or len(made.targets) != 1 or not alone(module, made):
        return None
    if not isinstance(made.targets[0], ast.Name) or not isinstance(made.value, ast.Call):
        return None
    loop: ast.stmt | None = None
    node: ast.AST = made
    while node in module.parents:
        node = module.parents[node]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            break
        if isinstance(node, (ast.For, ast.While)):
            loop = node
    if loop is None or not alone_start(module, loop):
        return None
    used = {n.id for n in walk(made.value) if isinstance(n, ast.Name)}
    bound = {n.id for n in walk(loop) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    if used & bound or len(block_of(module, made)) == 1:
        return None
    start, end = lines_of(module, made)
    text = reindent(module.text[start:end], indentation(module, made), indentation(module, loop))
    if not text.endswith(("\n", "\r")):
        text += module.newline
    above, _ = module.line_range(loop.lineno)
    edits = (Edit(above, above, text), Edit(start, end, ""))
    return Fix("Build the GradScaler once, before the loop", edits, Safety.SAFE)


def _clip_in_guard(module: Module, clip: ast.stmt, guard: ast.If, unscale: str) -> Fix | None:
    """Clip the whole sum of an accumulation, once, instead of each micro-batch's share of it."""
    message = "Unscale and clip once, before the step"
    if guard.orelse or not isinstance(clip, (ast.Expr, ast.Assign)) or not alone(module, clip):
        return None
    if any(_mentions(each, unscale.rpartition(".")[0], "unscale_") for each in guard.body):
        return None
    kept = {each.id for each in walk(clip) if _is_stored(each)}
    inside = set(walk(guard))
    if any(
        isinstance(each, ast.Name) and each.id in kept and each not in inside
        for each in walk(_function_around(module, clip))
        if not _is_stored(each)
    ):  # it is asked for in every pass
        return Fix(message, (), Safety.SUGGESTION)
    return _into_guard(module, [clip], guard, first=True, message=message, above=unscale)


def _is_stored(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _into_guard(
    module: Module,
    moved: list[ast.stmt],
    guard: ast.If,
    *,
    first: bool,
    message: str,
    above: str = "",
) -> Fix | None:
    inner = guard.body[0]
    if not alone(module, inner) or inner.lineno == guard.lineno or spans_lines(moved):
        return None
    start, end = lines_of(module, moved[0], moved[-1])
    text = reindent(
        module.text[start:end], indentation(module, moved[0]), indentation(module, inner)
    )
    if not text.endswith(("\n", "\r")):
        text += module.newline
    if above:
        text = f"{indentation(module, inner)}{above}{module.newline}{text}"
    if first:
        place, _ = module.line_range(inner.lineno)
    else:
        step = [s for s in guard.body if any(_is_step(n) for n in walk(s))][-1]
        _, place = module.line_range(step.end_lineno or step.lineno)
        if place == len(module.text) and not module.text.endswith(("\n", "\r")):
            return None
    return Fix(message, (Edit(start, end, ""), Edit(place, place, text)), Safety.SAFE)


def _around_parameters(module: Module, clip: ast.stmt) -> ast.stmt:
    """The outermost loop around a clip that goes through parameters: no backward is in it."""
    outermost, node = clip, module.parents.get(clip)
    while isinstance(node, ast.stmt) and not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        inner = {n.attr for n in walk(node) if isinstance(n, ast.Attribute)}
        if isinstance(node, (ast.For, ast.While)) and not inner & {"backward", "step"}:
            outermost = node
        node = module.parents.get(node)
    return outermost


def alone_start(module: Module, statement: ast.stmt) -> bool:
    """Whether a compound statement starts its line."""
    start, _ = module.range(statement)
    first, _ = module.line_range(statement.lineno)
    return not module.text[first:start].strip()


def _function_around(module: Module, node: ast.AST) -> ast.AST:
    while node in module.parents:
        node = module.parents[node]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return node
    return node


def _after(module: Module, statement: ast.stmt) -> list[ast.stmt]:
    """What runs after a statement in its block, and after the loops whose body that is."""
    found: list[ast.stmt] = []
    node: ast.AST | None = statement
    while isinstance(node, ast.stmt) and not isinstance(node, ast.FunctionDef):
        block = block_of(module, node)
        found += block[block.index(node) + 1 :]
        node = module.parents.get(node)
        if not isinstance(node, (ast.For, ast.With)):
            break
    return found


def _updates_around(module: Module, statement: ast.stmt, scaler: str) -> bool:
    """Whether the function around a statement updates this scaler in another block."""
    function = _function_around(module, statement)
    return any(isinstance(n, ast.stmt) and _is_call(n, scaler, "update") for n in walk(function))


def _is_step(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "step"
    )


def _steps_that(statement: ast.stmt, optimizer: str) -> bool:
    """Whether a step through a scaler is one of this optimizer."""
    call = getattr(statement, "value", None)
    return isinstance(call, ast.Call) and [ast.unparse(each) for each in call.args] == [optimizer]


def _is_call(statement: ast.stmt, receiver: str, method: str) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and isinstance(statement.value.func, ast.Attribute)
        and statement.value.func.attr == method
        and ast.unparse(statement.value.func.value) == receiver
    )


def _mentions(statement: ast.stmt, receiver: str, method: str) -> bool:
    return any(
        isinstance(n, ast.Attribute) and n.attr == method and ast.unparse(n.value) == receiver
        for n in walk(statement)
    )


def _steps(guard: ast.If, scaler: str) -> bool:
    return any(_is_call(s, scaler, "step") for s in guard.body)


def _scaler_of(module: Module, statement: ast.stmt) -> str | None:
    """How the function around a statement spells the scaler that scales its loss."""
    found = {
        ast.unparse(node.func.value)
        for node in walk(_function_around(module, statement))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "scale"
    }
    return found.pop() if len(found) == 1 else None

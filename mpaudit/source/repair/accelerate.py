"""Repairs of training loops on Hugging Face Accelerate."""

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
    spans_lines,
    unit,
)
from mpaudit.source.text.module import Module

_TAKES = {
    "clip_grad_norm_": ("parameters", "max_norm", "norm_type"),
    "clip_grad_value_": ("parameters", "clip_value"),
}
"""What the Accelerator's methods take, of what torch's functions do."""


@repairs("accelerate-raw-backward")
def backward_through_accelerator(context: Context) -> Fix | None:
    """`loss.backward()` -> `accelerator.backward(loss)`; None where it has no name there."""
    module, node = context.module, context.node(ast.Call)
    accelerator = context.subject("accelerator")
    if not accelerator or not isinstance(node, ast.Call):
        return None
    if not isinstance(node.func, ast.Attribute) or node.args:
        return None
    given = [module.source(node.func.value), *(module.source(each) for each in node.keywords)]
    if any("\n" in each for each in given):
        return None
    edit = Edit(*module.range(node), f"{accelerator}.backward({', '.join(given)})")
    return Fix(f"Run backward through `{accelerator}`", (edit,), Safety.SAFE)


@repairs("accelerate-raw-clip")
def clip_through_accelerator(context: Context) -> Fix | None:
    """`torch.nn.utils.clip_grad_norm_(...)` -> `accelerator.clip_grad_norm_(...)`.

    Under `accumulate()` it belongs below `if accelerator.sync_gradients:`.
    """
    module, node = context.module, context.node(ast.Call)
    accelerator, how = context.subject("accelerator"), context.subject("how")
    wanted = _TAKES.get(how or "")
    if not accelerator or not isinstance(node, ast.Call) or wanted is None:
        return None
    starred = any(isinstance(each, ast.Starred) for each in node.args)
    if starred or len(node.args) > len(wanted):
        return None
    if any(each.arg not in wanted for each in node.keywords) or not _in_reach(context, node):
        return None
    edit = Edit(*module.range(node.func), f"{accelerator}.{how}")
    edits: Edit | None = edit
    if context.subject("guard"):
        edits = guarded(module, node, f"{accelerator}.sync_gradients", edit)
    if edits is None:
        return None
    return Fix(f"Clip through `{accelerator}`, which unscales first", (edits,), Safety.SAFE)


def guarded(module: Module, node: ast.AST, test: str, change: Edit | None = None) -> Edit | None:
    """`if test:` above a statement, which is indented below it, with a `change` inside of it.

    None for a statement whose value is used further on, and for one that shares its lines.
    """
    statement = module.statement(node)
    if not isinstance(statement, ast.Expr) or not alone(module, statement):
        return None
    if spans_lines([statement]):
        return None
    indent = indentation(module, statement)
    start, end = lines_of(module, statement)
    text = module.text[start:end]
    if change is not None:
        text = text[: change.start - start] + change.content + text[change.end - start :]
    inner = reindent(text, indent, indent + unit(module, statement))
    return Edit(start, end, f"{indent}if {test}:{module.newline}{inner}")


def _in_reach(context: Context, node: ast.AST) -> bool:
    """Whether the accelerator goes by its name here, too: in the function that called its backward."""
    for related in context.problem.related:
        other = context.module.node_at(related.span, ast.Call)
        if related.span.filename == context.module.filename and other is not None:
            return _function(context.module, other) is _function(context.module, node)
    return False


def _function(module: Module, node: ast.AST) -> ast.AST:
    while node in module.parents:
        node = module.parents[node]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            break
    return node


@repairs("accelerate-with-grad-scaler")
def suggest_one_scaler(_: Context) -> Fix:
    """What goes with the scaler is spread over the loop: shown, never applied."""
    message = (
        "Drop the GradScaler: `accelerator.backward(loss)` and the step of a prepared optimizer scale and "
        "unscale; hand its arguments over as `kwargs_handlers=[GradScalerKwargs(...)]`"
    )
    return Fix(message, (), Safety.SUGGESTION)


@repairs("accelerate-clip-mid-accumulation")
def clip_once(context: Context) -> Fix | None:
    """Clip below `if accelerator.sync_gradients:`, or below the guard that steps."""
    module, node = context.module, context.node(ast.Call)
    accelerator = context.subject("accelerator")
    if not accelerator or not isinstance(node, ast.Call):
        return None
    if not context.problem.related:
        edit = guarded(module, node, f"{accelerator}.sync_gradients")
        return Fix("Clip once, on the last micro-batch", (edit,), Safety.SAFE) if edit else None
    step = context.statement_at(context.problem.related[0].span)
    edits = _into_guard(module, module.statement(node), step) if step is not None else None
    return Fix("Clip once, before the step", edits, Safety.SAFE) if edits else None


def _into_guard(module: Module, clip: ast.stmt, step: ast.stmt) -> tuple[Edit, Edit] | None:
    """Move a clip to the top of the `if` below it that steps."""
    block = block_of(module, clip)
    guards = [each for each in block[block.index(clip) + 1 :] if isinstance(each, ast.If)]
    guard = next((each for each in guards if step in each.body), None)
    if guard is None or guard.orelse or not isinstance(clip, ast.Expr) or not alone(module, clip):
        return None
    first = guard.body[0]
    if not alone(module, first) or first.lineno == guard.lineno or spans_lines([clip]):
        return None
    start, end = lines_of(module, clip)
    text = reindent(module.text[start:end], indentation(module, clip), indentation(module, first))
    place, _ = module.line_range(first.lineno)
    return Edit(start, end, ""), Edit(place, place, text)


@repairs("accelerate-double-division")
def divide_once(context: Context) -> Fix | None:
    """`loss / N` -> `loss`; a statement that does nothing else goes."""
    module, node = context.module, context.node(ast.AST)
    if isinstance(node, ast.AugAssign):
        statement: ast.stmt = node
    elif isinstance(node, ast.BinOp):
        statement = module.statement(node)
        edit = Edit(module.range(node.left)[1], module.range(node)[1], "")
        if not _renames_itself(statement, node):
            if not module.text[module.range(node)[0] : module.range(node.left)[0]].strip():
                return Fix("Leave the division to the Accelerator", (edit,), Safety.UNSAFE)
            return None
    else:
        return None
    if not alone(module, statement) or len(block_of(module, statement)) == 1:
        return None
    removed = Edit(*lines_of(module, statement), "")
    return Fix("Leave the division to the Accelerator", (removed,), Safety.UNSAFE)


def _renames_itself(statement: ast.stmt, division: ast.BinOp) -> bool:
    """Whether a statement is `loss = loss / N`."""
    if not isinstance(statement, ast.Assign) or statement.value is not division:
        return False
    targets = [ast.unparse(each) for each in statement.targets]
    return targets == [ast.unparse(division.left)]

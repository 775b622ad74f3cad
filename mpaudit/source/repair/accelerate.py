"""Repairs of training loops on Hugging Face Accelerate."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.module import Module
from mpaudit.source.repair.registry import (
    Context,
    alone,
    indentation,
    lines_of,
    reindent,
    repairs,
    spans_lines,
)

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
    indent, parent = indentation(module, statement), module.parents[statement]
    around = indentation(module, parent) if isinstance(parent, ast.stmt) else ""
    unit = indent.removeprefix(around) or "    "
    start, end = lines_of(module, statement)
    text = module.text[start:end]
    if change is not None:
        text = text[: change.start - start] + change.content + text[change.end - start :]
    inner = reindent(text, indent, indent + unit)
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
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            break
    return node

"""Repairs of training steps that a library owns: backward and clipping go through it."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.registry import Context, repairs
from mpaudit.source.text.module import Module


@repairs("lightning-raw-backward")
def backward_through_library(context: Context) -> Fix | None:
    """`loss.backward()` -> `self.manual_backward(loss)` or `fabric.backward(loss)`."""
    edit = library_backward(context)
    if edit is None:
        return None
    owner, method = context.subject("owner"), context.subject("method")
    return Fix(f"Run backward through `{owner}.{method}`", (edit,), Safety.SAFE)


@repairs("lightning-unsupported-combination")
def suggest_instead(context: Context) -> Fix:
    """What to do without is the author's to say: shown, never applied."""
    return Fix(context.subject("instead") or "", (), Safety.SUGGESTION)


def library_backward(context: Context) -> Edit | None:
    """The edit that hands the loss to the library; None where the library cannot be reached."""
    module, node = context.module, context.node(ast.Call)
    owner, method = context.subject("owner"), context.subject("method")
    if not owner or not method or not isinstance(node, ast.Call):
        return None
    if not isinstance(node.func, ast.Attribute) or node.func.attr != "backward" or node.args:
        return None
    given = [module.source(node.func.value), *(module.source(each) for each in node.keywords)]
    if any(_spans_lines(module, each) for each in (node.func.value, *node.keywords)):
        return None
    return Edit(*module.range(node), f"{owner}.{method}({', '.join(given)})")


def _spans_lines(module: Module, node: ast.AST) -> bool:
    return "\n" in module.source(node)

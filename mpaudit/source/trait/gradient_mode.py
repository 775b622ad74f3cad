"""Code that runs without gradients, as its text shows: in a `with torch.no_grad():`, or decorated so."""

from __future__ import annotations

import ast

from mpaudit.source.text.module import Module
from mpaudit.source.text.walk import walk

WITHOUT_GRADIENTS = ("no_grad", "inference_mode")
SWITCH = "set_grad_enabled"


def gradients_off(node: ast.AST | None, function: ast.AST | None, module: Module) -> bool:
    """Whether no gradients are recorded at `node` of a function, as far as that one tells."""
    around = list(getattr(function, "decorator_list", ()))
    while node is not None:
        if isinstance(node, (ast.With, ast.AsyncWith)):
            around += [item.context_expr for item in node.items]
        node = module.parents.get(node)
    return any(_switches_off(part) for each in around for part in walk(each))


def _switches_off(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and _name(node.func) == SWITCH:
        return any(isinstance(each, ast.Constant) and each.value is False for each in node.args)
    return _name(node) in WITHOUT_GRADIENTS


def _name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None

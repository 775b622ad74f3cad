"""Repairs of training on a DeepSpeed engine: backward and step go through it."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.owned import library_backward
from mpaudit.source.repair.registry import Context, repairs
from mpaudit.source.text.module import Module
from mpaudit.source.text.walk import walk


@repairs("deepspeed-raw-backward")
def through_engine(context: Context) -> Fix | None:
    """`loss.backward()` -> `engine.backward(loss)`; `optimizer.step()` -> `engine.step()`."""
    owner, method = context.subject("owner"), context.subject("method")
    edit = library_backward(context) if method == "backward" else _step(context, owner)
    if edit is None:
        return None
    what = "backward" if method == "backward" else "the step"
    return Fix(f"Run {what} through `{owner}.{method}`", (edit,), Safety.SAFE)


@repairs("deepspeed-config-conflict")
def one_precision(context: Context) -> Fix | None:
    """`"fp16": {"enabled": True}` -> `False` beside bf16, where both are literals."""
    module, node = context.module, context.node()
    parent = module.parents.get(node) if node is not None else None
    if isinstance(node, ast.keyword):
        part: ast.AST = node.value
    elif isinstance(parent, ast.Dict) and node in parent.keys:
        part = parent.values[parent.keys.index(node)]
    else:
        return None
    if not isinstance(part, ast.Dict):
        return None
    for key, value in zip(part.keys, part.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == "enabled":
            if isinstance(value, ast.Constant) and value.value is True:
                edit = Edit(*module.range(value), "False")
                return Fix("Switch `fp16` off, keep `bf16`", (edit,), Safety.UNSAFE)
    return None


def _step(context: Context, owner: str | None) -> Edit | None:
    """None where the engine steps in the same function as well."""
    module, node = context.module, context.node(ast.Call)
    if not owner or not isinstance(node, ast.Call) or node.args or node.keywords:
        return None
    if not isinstance(module.parents.get(node), ast.Expr):
        return None
    for each in walk(_around(module, node)):
        if isinstance(each, ast.Call) and module.source(each.func) == f"{owner}.step":
            return None
    return Edit(*module.range(node), f"{owner}.step()")


def _around(module: Module, node: ast.AST) -> ast.AST:
    """The function around a node, or the module."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Module)
    while not isinstance(node, kinds):
        node = module.parents[node]
    return node

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
    """`"fp16": {"enabled": True}` -> `False` beside bf16, where both are literals; or the other way round.

    fp16 stays where the script is written for it: a network in bfloat16 refuses inputs in float16.
    """
    module, node, off, on = context.module, context.node(), "fp16", "bf16"
    others = [each.span for each in context.problem.related]
    if _made_for_float16(module) and len(others) == 1 and others[0].filename == module.filename:
        node, off, on = module.node_at(others[0]), on, off
    switch = _switch(module, node)
    if switch is None:
        return None
    edit = Edit(*module.range(switch), "False")
    return Fix(f"Switch `{off}` off, keep `{on}`", (edit,), Safety.UNSAFE)


def _switch(module: Module, node: ast.AST | None) -> ast.Constant | None:
    """The `True` of what stands under a key, or is given as a keyword: `{"enabled": True}`."""
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
                return value
    return None


def _made_for_float16(module: Module) -> bool:
    """Whether a file casts to float16, and knows nothing of bfloat16."""
    named = {each.attr for each in walk(module.tree) if isinstance(each, ast.Attribute)}
    return not named.isdisjoint(_FLOAT16) and named.isdisjoint(_BFLOAT16)


_FLOAT16 = {"half", "float16", "HalfTensor", "fp16_enabled"}
_BFLOAT16 = {"bfloat16", "BFloat16Tensor", "bfloat16_enabled", "get_data_types"}


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

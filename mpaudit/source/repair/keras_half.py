"""Repairs of dtypes that a layer pins against its policy."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.module import Module
from mpaudit.source.repair.registry import Context, repairs


@repairs("hardcoded-layer-dtype")
def take_compute_dtype(context: Context) -> Fix | None:
    """`tf.cast(x, tf.float32)` -> `tf.cast(x, self.compute_dtype)`, where it stands in the method."""
    module, problem = context.module, context.problem
    message = "Take the dtype that the policy computes in, `self.compute_dtype`"
    pinned = next((each.span for each in problem.related if " here" in each.message), None)
    if pinned is None or pinned.filename != problem.span.filename:
        return Fix(message, (), Safety.SUGGESTION)
    call, here = module.node_at(pinned, ast.Call), context.node()
    method = None if here is None else _method(module, here)
    if not isinstance(call, ast.Call) or method is None or _method(module, call) is not method:
        return Fix(message, (), Safety.SUGGESTION)
    receiver = method.args.args[0].arg if method.args.args else None
    given = next((k.value for k in call.keywords if k.arg == "dtype"), None)
    if given is None and len(call.args) == 2 and module.source(call.func).endswith("cast"):
        given = call.args[1]
    if given is None or receiver is None or not isinstance(given, ast.Attribute | ast.Constant):
        return Fix(message, (), Safety.SUGGESTION)
    edit = Edit(*module.range(given), f"{receiver}.compute_dtype")
    return Fix(message, (edit,), Safety.SUGGESTION)


def _method(module: Module, node: ast.AST) -> ast.FunctionDef | None:
    while node in module.parents:
        node = module.parents[node]
        if isinstance(node, ast.FunctionDef):
            return node
    return None

"""Repairs of clipping and reading gradients that Lightning or Fabric has not unscaled yet."""

from __future__ import annotations

import ast

from mpaudit.finding import Span
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
)
from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names

AFTER = "on_after_backward"
BEFORE = "on_before_optimizer_step"
Method = ast.FunctionDef | ast.AsyncFunctionDef


@repairs("lightning-raw-clip")
def touch_unscaled(context: Context) -> Fix | None:
    """Move the work to where the gradients are unscaled, or let Fabric clip."""
    node = context.node(ast.Call)
    if not isinstance(node, ast.Call):
        return None
    if context.subject("library") == "Fabric":
        return _through_fabric(context, node)
    function = _function(context.module, node)
    owner = context.module.parents.get(function) if function is not None else None
    if function is None or not isinstance(owner, ast.ClassDef) or _has(owner, BEFORE):
        return None
    if function.name == AFTER:
        return _renamed(context.module, function)
    return _moved(context, node, function, owner)


def _renamed(module: Module, function: Method) -> Fix | None:
    """`def on_after_backward(self)` -> `def on_before_optimizer_step(self, optimizer)`."""
    spec = function.args
    called = [
        node
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr == AFTER
    ]
    if called or spec.vararg or spec.kwarg or spec.kwonlyargs or spec.defaults or not spec.args:
        return None
    start, _ = module.range(function)
    name = module.text.index(AFTER, start)
    _, end = module.range(spec.args[-1])
    edits = (Edit(name, name + len(AFTER), BEFORE), Edit(end, end, ", optimizer"))
    return Fix("Use the hook that sees unscaled gradients", edits, Safety.UNSAFE)


def _moved(context: Context, node: ast.Call, function: Method, owner: ast.ClassDef) -> Fix | None:
    """A clip of the one optimizer of a module, into the hook that runs between unscaling and step."""
    module, optimizer = context.module, context.subject("optimizer") or ""
    clip = module.statement(node)
    if not isinstance(clip, ast.Expr) or clip.value is not node or not alone(module, clip):
        return None
    if module.parents[function] is not owner or not function.args.args or spans_lines([clip]):
        return None
    if not _only_one(function, optimizer) or not _steps_below(module, clip, optimizer):
        return None
    receiver = function.args.args[0].arg
    if not _within_reach(module, clip, {receiver, optimizer}):
        return None
    outer, indent = indentation(module, function), indentation(module, function.body[0])
    start, end = lines_of(module, clip)
    text = reindent(module.text[start:end], indentation(module, clip), indent)
    hook = f"{outer}def {BEFORE}({receiver}, {optimizer}):{module.newline}{text}"
    _, place = lines_of(module, function)
    if not module.text[:place].endswith(("\n", "\r")):
        return None
    edits = (Edit(start, end, ""), Edit(place, place, module.newline + hook))
    return Fix(f"Clip in `{BEFORE}`, between unscaling and the step", edits, Safety.UNSAFE)


def _only_one(function: Method, optimizer: str) -> bool:
    """Whether the optimizer is all that `self.optimizers()` returns, under a plain name."""
    calls = [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "optimizers"
    ]
    names = [
        target.id
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and node.value in calls
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    return len(calls) == 1 and names == [optimizer]


def _steps_below(module: Module, clip: ast.stmt, optimizer: str) -> bool:
    """Whether the step follows in the block of the clip: then they happen equally often."""
    block = block_of(module, clip)
    return any(
        isinstance(node, ast.Call) and ast.unparse(node.func) == f"{optimizer}.step"
        for statement in block[block.index(clip) + 1 :]
        if isinstance(statement, ast.Expr)
        for node in ast.walk(statement)
    )


def _within_reach(module: Module, clip: ast.stmt, known: set[str]) -> bool:
    """Whether all names in a statement are `known`, or mean the same in another method."""
    names = Names.of(module)
    for node in ast.walk(clip):
        if isinstance(node, ast.Name) and node.id not in known:
            found = names.bindings(node)
            if not all(binding.scope.is_module for binding in found):
                return False
    return True


def _through_fabric(context: Context, node: ast.Call) -> Fix | None:
    """`clip_grad_norm_(model.parameters(), 1.0)` -> `fabric.clip_gradients(model, optimizer, ...)`."""
    module = context.module
    fabric, optimizer = context.subject("owner"), context.subject("optimizer")
    name = ast.unparse(node.func).rpartition(".")[2]
    limits = {"clip_grad_norm_": "max_norm", "clip_grad_value_": "clip_value"}
    if not fabric or not optimizer or name not in limits or not _together(context, node):
        return None
    positions = ("parameters", limits[name], "norm_type")[: 3 if name == "clip_grad_norm_" else 2]
    given = dict(zip(positions, node.args, strict=False))
    given |= {each.arg: each.value for each in node.keywords if each.arg is not None}
    model, limit = _model(given.pop("parameters", None)), given.pop(limits[name], None)
    if model is None or limit is None or not given.keys() <= {"norm_type", "error_if_nonfinite"}:
        return None
    if len(node.args) > len(positions) or len(given) + 2 != len(node.args) + len(node.keywords):
        return None
    word = "max_norm" if name == "clip_grad_norm_" else "clip_val"
    arguments = [module.source(model), optimizer, f"{word}={module.source(limit)}"]
    arguments += [f"{key}={module.source(value)}" for key, value in given.items()]
    if word == "max_norm" and "error_if_nonfinite" not in given:  # torch's default is the other one
        arguments.append("error_if_nonfinite=False")
    edit = Edit(*module.range(node), f"{fabric}.clip_gradients({', '.join(arguments)})")
    return Fix(f"Let `{fabric}` unscale and clip", (edit,), Safety.SAFE)


def _model(parameters: ast.expr | None) -> ast.expr | None:
    """The model of `model.parameters()`."""
    match parameters:
        case ast.Call(func=ast.Attribute(value=model, attr="parameters"), args=[], keywords=[]):
            return model
    return None


def _together(context: Context, node: ast.AST) -> bool:
    """Whether backward and step stand in the function of the clip, so that their names hold there."""
    home = _function(context.module, node)
    return all(
        _holds(context.module, home, related.span) for related in context.problem.related[-2:]
    )


def _holds(module: Module, home: Method | None, span: Span) -> bool:
    found = module.node_at(span) if span.filename == module.filename else None
    return found is not None and _function(module, found) is home


def _function(module: Module, node: ast.AST) -> Method | None:
    while node in module.parents:
        node = module.parents[node]
        if isinstance(node, Method):
            return node
    return None


def _has(owner: ast.ClassDef, name: str) -> bool:
    return any(isinstance(each, Method) and each.name == name for each in owner.body)

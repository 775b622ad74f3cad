"""Repairs of dtypes that a layer pins against its policy, and of outputs that are left in float16."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.protocols.keras_half import CALLED
from mpaudit.protocols.keras_policy_problems import PREDICTED
from mpaudit.source.repair.registry import Context, repairs
from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names


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
    if given is None or receiver is None or not isinstance(given, (ast.Attribute, ast.Constant)):
        return Fix(message, (), Safety.SUGGESTION)
    edit = Edit(*module.range(given), f"{receiver}.compute_dtype")
    return Fix(message, (edit,), Safety.SUGGESTION)


def _method(module: Module, node: ast.AST) -> ast.FunctionDef | None:
    while node in module.parents:
        node = module.parents[node]
        if isinstance(node, ast.FunctionDef):
            return node
    return None


@repairs("raw-loss-on-half-output")
def cast_output(context: Context) -> Fix | None:
    """`model(x)` -> `tf.cast(model(x), tf.float32)`, where the loss is computed."""
    module, problem = context.module, context.problem
    called = next((each.span for each in problem.related if each.message == CALLED), None)
    if called is None or called.filename != problem.span.filename:
        return None
    call, here = module.node_at(called, ast.Call), context.node()
    spelled = spelling_of_tensorflow(module)
    if not isinstance(call, ast.Call) or here is None or spelled is None:
        return None
    if not _goes_into_loss(module, call):
        return None
    start, end = module.range(call)
    edits = (
        Edit(start, start, f"{spelled}.cast("),
        Edit(end, end, f", {spelled}.float32)"),
    )
    return Fix("Cast the output to float32 before the loss", edits, Safety.SAFE)


@repairs("half-loss-dtype")
def compute_in_float32(context: Context) -> Fix | None:
    """`MeanSquaredError(dtype="float16")` -> `MeanSquaredError()`; a cast to float32 instead."""
    module, call = context.module, context.node(ast.Call)
    if not isinstance(call, ast.Call):
        return None
    if not context.problem.related:
        return without_dtype(module, call)
    given = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "dtype")]
    spelled = module.source(call.func).rpartition(".")[0]
    if len(given) != 1 or not module.source(call.func).endswith(".cast"):
        return None
    is_text = isinstance(given[0], ast.Constant)
    text = f"{module.quote}float32{module.quote}" if is_text or spelled != "tf" else "tf.float32"
    edit = Edit(*module.range(given[0]), text)
    return Fix("Keep what the loss is given in float32", (edit,), Safety.SAFE)


@repairs("half-predictions")
def predictions_to_float32(context: Context) -> Fix | None:
    """`model.predict(x)` -> `model.predict(x).astype("float32")`."""
    module, problem = context.module, context.problem
    made = next((each.span for each in problem.related if each.message == PREDICTED), None)
    call = None if made is None else module.node_at(made, ast.Call)
    if made is None or made.filename != problem.span.filename or not isinstance(call, ast.Call):
        return None
    _, end = module.range(call)
    edit = Edit(end, end, f".astype({module.quote}float32{module.quote})")
    return Fix("Make the predictions float32", (edit,), Safety.SAFE)


def without_dtype(
    module: Module,
    call: ast.Call,
    message: str = "Leave the loss in float32",
    safety: Safety = Safety.SAFE,
) -> Fix | None:
    """Take the argument `dtype=` out of a call; None where that cannot be done with certainty."""
    keyword = next((k for k in call.keywords if k.arg == "dtype"), None)
    if keyword is None:
        return None
    every: list[ast.expr | ast.keyword] = [*call.args, *call.keywords]
    every.sort(key=lambda each: (each.lineno, each.col_offset))
    index = every.index(keyword)
    start, end = module.range(keyword)
    if index:
        start = module.range(every[index - 1])[1]
    elif len(every) > 1:
        end = module.range(every[1])[0]
    if "#" in module.text[start:end]:
        return None
    return Fix(message, (Edit(start, end, ""),), safety)


def _goes_into_loss(module: Module, call: ast.Call) -> bool:
    """Whether a call's result is used where it stands, or has one name that nothing else is given."""
    parent = module.parents.get(call)
    if isinstance(parent, ast.BinOp):
        return True
    if isinstance(parent, ast.Call):
        return call in parent.args
    if not isinstance(parent, ast.Assign) or len(parent.targets) != 1:
        return False
    target, names = parent.targets[0], Names.of(module)
    return isinstance(target, ast.Name) and len(names.bindings(target)) == 1


def spelling_of_tensorflow(module: Module) -> str | None:
    """What `tensorflow` is called in this file."""
    for node in module.tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "tensorflow":
                    return alias.asname or "tensorflow"
    return None

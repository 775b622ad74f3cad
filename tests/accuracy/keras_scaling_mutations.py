"""Mistakes with loss scaling in Keras 2 and 3 (MP505, MP506, MP508, MP512, MP517, MP518, MP519)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .keras_mutations import policies
from .mutation import MARK, Change, change, operator
from .roles import Program
from .script import Script, keyword

EITHER = ("hasattr(", "except AttributeError", "__version__")
"""What a file for both versions of Keras asks."""


def name_of(call: ast.Call) -> str:
    return getattr(call.func, "attr", None) or getattr(call.func, "id", None) or ""


def named(script: Script, *names: str) -> list[ast.Call]:
    return [call for call in script.calls() if name_of(call) in names]


def receiver(call: ast.Call) -> str:
    return ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""


def applied(script: Script, optimizer: str | None = None) -> list[ast.Call]:
    """Where gradients are applied, by any optimizer or by that one."""
    calls = named(script, "apply_gradients", "apply")
    return [call for call in calls if optimizer in (None, receiver(call))]


def for_both(script: Script) -> bool:
    return any(word in script.text for word in EITHER)


def wraps(script: Script) -> list[ast.Call]:
    return [call for call in named(script, "LossScaleOptimizer") if len(call.args) == 1]


@operator("missing-gradient-unscale")
def gradients_left_scaled(program: Program) -> Iterator[Change]:
    """`optimizer.get_unscaled_gradients(gradients)` becomes `gradients`."""
    for script in program.scripts:
        calls = named(script, "get_unscaled_gradients")
        if len(calls) != 1 or for_both(script) or len(calls[0].args) != 1:
            continue
        call = calls[0]
        edit = (script.start(call), script.end(call), script.source(call.args[0]))
        yield change(script, edit, marks=applied(script))


@operator("clip-scaled-gradients")
def clipped_at_the_tape(program: Program) -> Iterator[Change]:
    """The gradients of a scaled loss are clipped below the statement that takes them."""
    if not list(policies(program)):
        return
    for script in program.scripts:
        if "bfloat16" in script.text:
            continue
        for call in named(script, "gradient"):
            stmt = script.statement(call)
            if not isinstance(stmt, ast.Assign) or stmt.value is not call:
                continue
            if not isinstance(stmt.targets[0], ast.Name) or not script.owns_lines(stmt):
                continue
            if not scaled_name(script, call) or "import tensorflow as tf" not in script.text:
                continue
            name, at = stmt.targets[0].id, script.line_end(script.end(stmt))
            line = f"{script.indent(stmt)}{MARK}{name}, _ = tf.clip_by_global_norm({name}, 1.0)\n"
            yield change(script, (at, at, line))


def scaled_name(script: Script, call: ast.Call) -> bool:
    """Whether a tape is asked for the gradients of what scaling has returned, and of nothing else."""
    function = script.function(script.statement(call)) or script.tree
    name = ast.unparse(call.args[0]) if call.args else ""
    values = [
        stmt.value
        for stmt in ast.walk(function)
        if isinstance(stmt, ast.Assign) and ast.unparse(stmt.targets[0]) == name
    ]
    return len(values) == 1 and any(
        isinstance(values[0], ast.Call) and name_of(values[0]) == method
        for method in ("scale_loss", "get_scaled_loss")
    )


@operator("legacy-loss-scale-api")
def scaled_as_in_keras_2(program: Program) -> Iterator[Change]:
    """`optimizer.scale_loss(loss)` becomes `optimizer.get_scaled_loss(loss)`."""
    for script in program.scripts:
        if for_both(script) or "tf_keras" in script.text:
            continue
        for call in named(script, "scale_loss"):
            if isinstance(call.func, ast.Attribute) and not isinstance(
                script.statement(call), ast.With
            ):
                end = script.end(call.func)
                edit = (end - len("scale_loss"), end, "get_scaled_loss")
                yield change(script, edit, marks=[call])


@operator("legacy-loss-scale-api")
def wrapped_as_in_keras_2(program: Program) -> Iterator[Change]:
    """`LossScaleOptimizer(optimizer)` gets a second argument."""
    for script in program.scripts:
        if for_both(script) or "tf_keras" in script.text or "tensorflow<" in script.text:
            continue
        for call in wraps(script):
            if not call.keywords and len(program.scripts) == 1:
                at = script.end(call.args[0])
                yield change(script, (at, at, ', "dynamic"'), marks=[call])


@operator("per-layer-policy-unscaled")
def policy_for_each_layer(program: Program) -> Iterator[Change]:
    """The global policy is float32, and every layer without a dtype is mixed_float16."""
    set_by = list(policies(program))
    for script in program.scripts:
        if len(set_by) != 1 or len(program.scripts) > 1 or script.text.count("mixed_float16") != 1:
            continue
        if "LossScaleOptimizer" in script.text or "GradientTape" in script.text:
            continue
        if not named(script, "fit"):
            continue
        _, call = set_by[0]
        edits = [(script.start(call.args[0]), script.end(call.args[0]), '"float32"')]
        for layer in named(script, "Dense", "Conv2D"):
            if keyword(layer, "dtype") is None and (layer.args or layer.keywords):
                last = max(script.end(each) for each in [*layer.args, *layer.keywords])
                edits.append((last, last, ', dtype="mixed_float16"'))
        if len(edits) > 1:
            yield change(script, *edits, marks=named(script, "fit"))


@operator("unwrapped-second-optimizer")
def one_left_plain(program: Program) -> Iterator[Change]:
    """Of two optimizers that are wrapped, one is not, and its loss is not scaled."""
    if not list(policies(program)):
        return
    for script in program.scripts:
        wrapped = [call for call in wraps(script) if not call.keywords]
        if len(wrapped) != 2:
            continue
        for call in wrapped:
            stmt = script.statement(call)
            if not isinstance(stmt, ast.Assign) or stmt.value is not call:
                continue
            name = ast.unparse(stmt.targets[0])
            scaled = [each for each in named(script, "scale_loss") if receiver(each) == name]
            if len(scaled) != 1 or not applied(script, name):
                continue
            edits = [
                (script.start(each), script.end(each), script.source(each.args[0]))
                for each in (call, *scaled)
            ]
            yield change(script, *edits, marks=applied(script, name))


@operator("double-loss-scaling")
def wrapped_again(program: Program) -> Iterator[Change]:
    """`LossScaleOptimizer(x)` becomes `LossScaleOptimizer(LossScaleOptimizer(x))`."""
    for script in program.scripts:
        for call in wraps(script):
            start, end = script.start(call), script.end(call)
            name = script.source(call.func)
            yield change(script, (start, start, f"{name}("), (end, end, ")"), marks=[call])


@operator("double-loss-scaling")
def scaled_again(program: Program) -> Iterator[Change]:
    """`optimizer.scale_loss(loss)` becomes `optimizer.scale_loss(optimizer.scale_loss(loss))`."""
    if not list(policies(program)):
        return
    for script in program.scripts:
        if for_both(script) or "bfloat16" in script.text or "LossScaleOptimizer" not in script.text:
            continue
        for call in named(script, "scale_loss", "get_scaled_loss"):
            if not isinstance(call.func, ast.Attribute) or not applied(script, receiver(call)):
                continue
            start, end = script.start(call), script.end(call)
            edits = ((start, start, f"{script.source(call.func)}("), (end, end, ")"))
            yield change(script, *edits, marks=applied(script, receiver(call)))


@operator("needless-loss-scale")
def bfloat16_instead(program: Program) -> Iterator[Change]:
    """The policy becomes mixed_bfloat16, the wrapper stays."""
    set_by = list(policies(program))
    for script in program.scripts:
        if (
            len(set_by) != 1
            or len(program.scripts) > 1
            or "float16" in script.text.replace('"mixed_float16"', "", 1)
        ):
            continue
        _, call = set_by[0]
        # Keras 2 and a policy under a condition are another matter: nobody can say what is meant.
        if not wraps(script) or for_both(script):
            continue
        edit = (script.start(call.args[0]), script.end(call.args[0]), '"mixed_bfloat16"')
        yield change(script, edit, marks=wraps(script))

"""Mistakes with what float16 can hold, in layers of Keras (MP301-MP303, MP306, MP309, MP520)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .keras_mutations import policies
from .mutation import MARK, Change, change, operator
from .order_mutations import inserted_after
from .roles import Program
from .script import Script, assignments, keyword, unstarred

OPEN = ("relu", "gelu", "linear")
"""Activations that bound nothing."""


def half_outputs(program: Program) -> Iterator[tuple[Script, ast.Assign, str]]:
    """(script, statement, name) where, in the `call` of a layer, a name gets the float16 output of a
    linear or convolution layer that the class itself has built without a dtype."""
    if not list(policies(program)):
        return
    for script in program.scripts:
        if "tf" not in script.imports:
            continue
        for owner in (node for node in ast.walk(script.tree) if isinstance(node, ast.ClassDef)):
            if "dtype=" in ast.unparse(owner).partition("def call")[0]:
                continue
            held = set(_linear(owner))
            for stmt in ast.walk(owner):
                if not isinstance(stmt, ast.Assign) or not isinstance(stmt.value, ast.Call):
                    continue
                function, target = script.function(stmt), stmt.targets[0]
                in_call = function is not None and function.name == "call"
                if in_call and isinstance(target, ast.Name) and script.owns_lines(stmt):
                    if ast.unparse(stmt.value.func) in held:
                        yield script, stmt, target.id


def _linear(owner: ast.ClassDef) -> Iterator[str]:
    for target, value in assignments(owner):
        name = ast.unparse(value.func).rpartition(".")[2] if isinstance(value, ast.Call) else ""
        if not isinstance(value, ast.Call) or not unstarred(value):
            continue
        if name != "Dense" and not name.startswith("Conv"):
            continue
        given = keyword(value, "activation")
        bounded = given is not None and ast.unparse(given).strip("'\"") not in OPEN
        if not bounded and len(value.args) < 2:
            yield ast.unparse(target)


def insertion(program: Program, line: str) -> Iterator[Change]:
    """A line behind each such output; NAME stands for it."""
    for script, stmt, name in half_outputs(program):
        yield change(script, inserted_after(script, stmt, MARK + line.replace("NAME", name)))


@operator("half-overflow-constant")
def additive_mask(program: Program) -> Iterator[Change]:
    """A mask times -1e9 is added."""
    yield from insertion(program, "NAME = NAME + (1.0 - tf.cast(NAME > 0, NAME.dtype)) * -1e9")


@operator("half-overflow-constant")
def masked_by_where(program: Program) -> Iterator[Change]:
    """A softmax of a `tf.where` with a constant beyond 65504."""
    yield from insertion(program, "NAME = tf.nn.softmax(tf.where(NAME > 0, NAME, -1e9))")


@operator("half-overflow-constant")
def limit_beyond(program: Program) -> Iterator[Change]:
    """`x.dtype.min` in a `tf.where` becomes -1e9."""
    if not list(policies(program)):
        return
    for script in program.scripts:
        for call in script.calls():
            if ast.unparse(call.func) == "tf.where" and len(call.args) == 3:
                last = call.args[2]
                if isinstance(last, ast.Attribute) and ast.unparse(last).endswith(".dtype.min"):
                    edit = (script.start(last), script.end(last), "-1e9")
                    yield change(script, edit, marks=[call])


@operator("half-underflow-epsilon")
def divisor_of_zero(program: Program) -> Iterator[Change]:
    """A divisor's epsilon that is zero in float16."""
    line = "NAME = NAME / (tf.reduce_max(tf.abs(NAME), axis=-1, keepdims=True) + 1e-8)"
    yield from insertion(program, line)


@operator("half-underflow-epsilon")
def unit_of_zero(program: Program) -> Iterator[Change]:
    """The epsilon of `l2_normalize` is zero in float16."""
    yield from insertion(program, "NAME = tf.math.l2_normalize(NAME, axis=-1, epsilon=1e-12)")


@operator("half-reduction")
def squares_of_a_layer(program: Program) -> Iterator[Change]:
    """The sum of a row's squares is taken in float16."""
    line = "NAME = NAME / tf.sqrt(tf.reduce_sum(tf.square(NAME), axis=-1, keepdims=True))"
    yield from insertion(program, line)


@operator("half-reduction")
def norm_of_a_layer(program: Program) -> Iterator[Change]:
    """The norm of a row is taken in float16."""
    yield from insertion(program, "NAME = NAME / tf.norm(NAME, axis=-1, keepdims=True)")


@operator("half-accumulator")
def metric_in_half(program: Program) -> Iterator[Change]:
    """A metric of Keras is built with `dtype="float16"`."""
    for script in program.scripts:
        for call in script.calls():
            name = ast.unparse(call.func).rpartition(".")[2]
            if ".metrics." not in script.qualified(call.func) or not name[:1].isupper():
                continue
            if keyword(call, "dtype") is None and unstarred(call) and _one_line(script, call):
                yield change(script, _dtype(script, call), marks=[call])


@operator("half-parameters")
def weight_in_half(program: Program) -> Iterator[Change]:
    """A weight that is trained is added with `dtype="float16"`."""
    if not list(policies(program)):
        return
    for script in program.scripts:
        if ".fit(" not in script.text and ".gradient(" not in script.text:
            continue
        for call in script.calls():
            owner = script.class_of(call)
            if not ast.unparse(call.func).endswith("self.add_weight") or owner is None:
                continue
            if "etric" in "".join(map(ast.unparse, owner.bases)) or "trainable" in script.text:
                continue
            if keyword(call, "dtype") is None and unstarred(call) and _one_line(script, call):
                yield change(script, _dtype(script, call), marks=[call])


def _dtype(script: Script, call: ast.Call) -> tuple[int, int, str]:
    at = script.end(call) - 1
    return at, at, f'{", " if call.args or call.keywords else ""}dtype="float16"'


def _one_line(script: Script, call: ast.Call) -> bool:
    return not script.text[: script.end(call) - 1].rstrip().endswith(",")


@operator("half-input-range")
def inputs_beyond(program: Program) -> Iterator[Change]:
    """Random inputs of a Sequential that begins with a layer that casts become a million times larger."""
    if len(list(policies(program))) != 1:
        return
    for script in program.scripts:
        data = {
            target.id: value
            for target, value in assignments(script.tree)
            if isinstance(target, ast.Name) and _random(value)
        }
        models = {
            target.id
            for target, value in assignments(script.tree)
            if isinstance(target, ast.Name) and _begins_with_dense(value)
        }
        for call in script.calls():
            function = call.func
            if not isinstance(function, ast.Attribute) or function.attr != "fit" or not call.args:
                continue
            fitted = isinstance(function.value, ast.Name) and function.value.id in models
            value = data.get(call.args[0].id) if isinstance(call.args[0], ast.Name) else None
            if fitted and value is not None:
                at = script.start(value)
                yield change(script, (at, at, "1e6 * "), marks=[call])


def _random(value: ast.expr) -> bool:
    name = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
    if name.endswith(".astype") and isinstance(value, ast.Call):
        return isinstance(value.func, ast.Attribute) and _random(value.func.value)
    return name.endswith(("random.rand", "random.randn", "random.random", "random.normal"))


def _begins_with_dense(value: ast.expr) -> bool:
    if not isinstance(value, ast.Call) or not ast.unparse(value.func).endswith("Sequential"):
        return False
    layers = value.args[0] if value.args else None
    items = layers.elts if isinstance(layers, ast.List) else []
    items = [each for each in items if "Input" not in ast.unparse(each)]
    first = items[0] if items else None
    if not isinstance(first, ast.Call) or keyword(first, "dtype") is not None:
        return False
    return ast.unparse(first.func).rpartition(".")[2] in ("Dense", "Conv1D", "Conv2D")


@operator("half-input-range")
def rescaled_from_sixteen_bits(program: Program) -> Iterator[Change]:
    """`Rescaling(1 / 255)` becomes `Rescaling(1 / 65535)`."""
    if not list(policies(program)):
        return
    for script in program.scripts:
        for call in script.calls():
            if not ast.unparse(call.func).endswith("Rescaling") or len(call.args) != 1:
                continue
            scale = call.args[0]
            small = isinstance(scale, ast.BinOp) and ast.unparse(scale.right).startswith("255")
            if small and not call.keywords:
                edit = (script.start(scale), script.end(scale), "1 / 65535")
                yield change(script, edit, marks=[call])

"""Mistakes with dtypes in Keras: pinned in layers, half losses, half predictions (MP507, MP514-MP516)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .keras_mutations import policies
from .mutation import MARK, Change, change, operator
from .roles import Program
from .script import Script, keyword, unstarred


@operator("hardcoded-layer-dtype")
def float32_in_call(program: Program) -> Iterator[Change]:
    """`x.dtype` and `self.compute_dtype` as an argument of a function of TensorFlow become tf.float32."""
    if not list(policies(program)):
        return
    for script in program.scripts:
        for call in script.calls():
            function = script.function(call)
            if function is None or function.name != "call" or not _of_tensorflow(call):
                continue
            given = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "dtype")]
            for dtype in given:
                if isinstance(dtype, ast.Attribute) and dtype.attr in ("dtype", "compute_dtype"):
                    edit = (script.start(dtype), script.end(dtype), "tf.float32")
                    yield change(script, edit, marks=list(_bodies(script, function)))


def _of_tensorflow(call: ast.Call) -> bool:
    return ast.unparse(call.func).startswith("tf.")


def _bodies(script: Script, function: ast.AST) -> Iterator[ast.AST]:
    """The statements of a function, any of which may be the one that raises."""
    for node in ast.walk(function):
        if isinstance(node, ast.stmt) and node is not function:
            yield node


@operator("raw-loss-on-half-output")
def output_not_cast(program: Program) -> Iterator[Change]:
    """`tf.cast(model(x), tf.float32)` becomes `model(x)`, where the loss is put together by hand."""
    if not list(policies(program)):
        return
    for script in program.scripts:
        for call in script.calls():
            if ast.unparse(call.func) != "tf.cast" or not isinstance(call.args[0], ast.Call):
                continue
            function = script.function(call)
            if function is not None and function.name == "call":
                continue
            if not isinstance(script.parent(call), ast.Assign):
                continue
            edit = (script.start(call), script.end(call), script.source(call.args[0]))
            yield change(script, edit, marks=_reads(script))


@operator("raw-loss-on-half-output")
def linear_head_without_dtype(program: Program) -> Iterator[Change]:
    """`dtype="float32"` is taken from a linear head whose loss is put together by hand."""
    if not list(policies(program)):
        return
    for script in program.scripts:
        if "losses" in script.text or "GradientTape" not in script.text:
            continue
        if "compute_loss(" in script.text or "compiled_loss(" in script.text:
            continue
        heads = [
            call
            for call in script.calls()
            if ast.unparse(call.func).endswith("Dense")
            and isinstance(dtype := keyword(call, "dtype"), ast.Constant)
            and dtype.value == "float32"
            and keyword(call, "activation") is None
        ]
        for call in heads if len(heads) == 1 else ():
            word = next(k for k in call.keywords if k.arg == "dtype")
            before = script.text.rfind(",", 0, script.start(word))
            yield change(script, (before, script.end(word), ""), marks=_reads(script))


@operator("half-loss-dtype")
def loss_in_float16(program: Program) -> Iterator[Change]:
    """A loss object of Keras 3 is built with `dtype="float16"`."""
    if not list(policies(program)):
        return
    for script in program.scripts:
        if "tf_keras" in script.text:
            continue
        for call in script.calls():
            if ".losses." not in script.qualified(call.func) or not unstarred(call):
                continue
            name = ast.unparse(call.func).rpartition(".")[2]
            if not name[:1].isupper() or keyword(call, "dtype") is not None:
                continue
            at = script.end(call) - 1
            comma = ", " if call.args or call.keywords else ""
            if not script.text[:at].rstrip().endswith(","):
                yield change(script, (at, at, f'{comma}dtype="float16"'), marks=[call])


@operator("half-predictions")
def predictions_summed(program: Program) -> Iterator[Change]:
    """Behind `p = model.predict(x)`, `p.sum()` is printed; the dtype of the output layer is gone."""
    if not list(policies(program)):
        return
    for script in program.scripts:
        if ".fit(" in script.text or "GradientTape" in script.text:
            continue  # there the output's dtype is a mistake of another name
        for call in script.calls():
            stmt, function = script.statement(call), call.func
            named = isinstance(stmt, ast.Assign) and stmt.value is call
            if not named or not isinstance(function, ast.Attribute) or function.attr != "predict":
                continue
            target = stmt.targets[0] if isinstance(stmt, ast.Assign) else None
            if isinstance(target, ast.Name) and script.owns_lines(stmt):
                at = script.line_end(script.end(stmt))
                line = f"{script.indent(stmt)}{MARK}print({target.id}.sum())\n"
                yield change(script, (at, at, line))


def _reads(script: Script) -> list[ast.AST]:
    """Where a loss may begin: every statement that computes something."""
    return [
        node
        for node in ast.walk(script.tree)
        if isinstance(node, ast.Assign | ast.Return) and any(script.calls(node))
    ] + [node for node in ast.walk(script.tree) if isinstance(node, ast.BinOp)]

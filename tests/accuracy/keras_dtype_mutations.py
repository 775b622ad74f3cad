"""Mistakes with dtypes in Keras: pinned in layers, half losses, half predictions (MP507, MP514-MP516)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .keras_mutations import policies
from .mutation import Change, change, operator
from .roles import Program
from .script import Script


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

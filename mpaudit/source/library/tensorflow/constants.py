"""Constants that meet float16 tensors of TensorFlow and Keras: masks, divisors, epsilons.

TensorFlow converts a Python number to the dtype of the tensor that it meets, before it computes:
beyond 65504 it is inf, below 3e-8 it is 0. What a script has made a tensor of (`tf.constant(-1e9,
x.dtype)`) carries the fact `@constant`, and is told of where it meets another.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import ConstantMet, Ref
from mpaudit.source.api.keras_names import ROOTS, last
from mpaudit.source.engine.registry import on_binary, on_operation
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import TRUE, Const, External, Thing, Value
from mpaudit.source.library.keras.dtype import SEEN, held, reasons
from mpaudit.source.library.python.number import number
from mpaudit.source.library.tensorflow.dtypes import kind_of
from mpaudit.source.library.tensorflow.masks import hidden_by

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

_HALF = "float16"
LARGEST = 65504.0
_PAIRS = {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mult",
    "maximum": "maximum",
}
"""Functions of two tensors, either of which may be the constant."""
_HIDING = ("where", "Add", "Sub")
"""What puts an infinity into a tensor, and does no harm by itself."""
_QUOTIENTS = ("divide", "truediv", "realdiv")
_NORMS = {"l2_normalize": (2, "epsilon"), "normalize": (3, "epsilon")}
_MAKING = ("constant", "cast", "convert_to_tensor", "fill", "full")
_CLIPS = ("clip_by_value", "clip")
_OWN = tuple(f"{root}.ops." for root in ROOTS)


@on_binary
def met(
    engine: Calls, node: ast.BinOp | ast.AugAssign, left: Value, right: Value, path: Path
) -> None:
    """`scores + (1.0 - mask) * -1e9`, `x / (norm + 1e-8)`."""
    if SEEN not in path.heap or not isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
        return
    one, two = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.target, node.value)
    operation = type(node.op).__name__
    made = engine.term(operation, left, right)
    _met(engine, path, node, operation, (left, one), (right, two), made)
    if operation != "Div":
        _met(engine, path, node, operation, (right, two), (left, one), made)


@on_operation
def negated(_: Calls, operation: str, operands: tuple[Value, ...], made: Thing, path: Path) -> None:
    """`-tf.constant(1e9, x.dtype)`."""
    if operation == "USub" and SEEN in path.heap:
        known = path.known(operands[0], "@constant")
        if isinstance(known, Const) and isinstance(known.value, float):
            path.learn(made, constant=Const(-known.value))


@on_result(methods=(), given=SEEN)
def called(call: Call, callee: Value, made: Value) -> None:
    """`tf.where(mask, scores, -1e9)`, `tf.maximum(x, 1e-8)`, `tf.clip_by_value(p, 1e-8, 1.0)`."""
    if not isinstance(callee, External):
        return
    name, path = last(callee.name), call.path
    if name == "ones_like" and isinstance(made, Thing):
        path.learn(made, ones=TRUE)
    if name in _MAKING and isinstance(made, Thing):
        at = 1 if name in ("fill", "full") else 0
        known = number(call.argument(at, "value"), call.engine.identities)
        if known is not None and callee.name.startswith(("tensorflow.", "keras.", "tf_keras.")):
            path.learn(made, constant=Const(known))
    if kind_of(callee.name) is None and not (name in _NORMS and callee.name.startswith(_OWN)):
        return
    if name == "where":
        for tensor, other in ((1, 2), (2, 1)):
            _given(call, made, "where", tensor, (other, None))
    elif name in _PAIRS:
        for tensor, other in ((0, 1), (1, 0)):
            _given(call, made, _PAIRS[name], tensor, (other, None))
    elif name in _QUOTIENTS:
        _given(call, made, "Div", 0, (1, None))
    elif name in _CLIPS:
        low, high = ("clip_value_min", "clip_value_max") if name != "clip" else ("x_min", "x_max")
        _given(call, made, "clip", 0, (1, low))
        _given(call, made, "ceiling", 0, (2, high))
    elif name in _NORMS:
        _given(call, made, "l2_normalize", 0, _NORMS[name])
    elif name == "batch_normalization":
        _given(call, made, name, 2, (5, "variance_epsilon"))


def _given(
    call: Call, made: Value, operation: str, tensor: int, constant: tuple[int, str | None]
) -> None:
    node, given = call.argument_node(tensor), call.argument_node(*constant)
    value, other = call.argument(tensor), call.argument(*constant)
    if node is not None and given is not None and value is not None and other is not None:
        _met(call.engine, call.path, call.node, operation, (value, node), (other, given), made)


def _met(
    engine: Calls,
    path: Path,
    at: ast.AST,
    operation: str,
    tensor: tuple[Value, ast.expr],
    constant: tuple[Value, ast.expr],
    made: Value,
) -> None:
    value = number(constant[0], engine.identities)
    if value is None:
        known = path.known(constant[0], "@constant")
        value = known.value if isinstance(known, Const) and isinstance(known.value, float) else None
    if value is None or value == 0 or 1e-7 < abs(value) < 0.999 or 1 <= abs(value) <= 65504:
        return
    dtype = held(tensor[0], path)
    if dtype is None or dtype.name != _HALF or path.known(tensor[0], "@constant") is not None:
        return
    if operation == "Mult" and path.known(tensor[0], "@ones") is not None:
        if isinstance(made, Thing):
            path.learn(made, constant=Const(value))
        return
    module = path.frame.module
    event = ConstantMet(
        at=module.span(at),
        occasional=any(frame.occasional for frame in path.frames),
        tensor=Ref(
            tensor[0].uid if isinstance(tensor[0], Thing) else 0,
            " ".join(module.source(tensor[1]).split()),
        ),
        dtype=dtype.name,
        value=value,
        text=" ".join(module.source(constant[1]).split()),
        operation=operation,
        because=reasons(tensor[0], path),
        library="tensorflow",
    )
    if abs(value) > LARGEST and operation in _HIDING:
        hidden_by(made, event, path)
    else:
        engine.emit(event, path)

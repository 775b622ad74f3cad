"""Squares of float16 tensors of TensorFlow and Keras, and what sums them up in float16.

TensorFlow's `reduce_sum`, `reduce_mean` and `norm` return what they are given, and on the CPU add up in
it; `keras.ops.mean` adds up in float32, but squares are float16 before it. Reported are squares of
what nothing bounds: the output of a layer without an activation that bounds it. A normalisation, a
softmax, a division or a function that is not listed here ends that.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import Ref, SquaresReduced
from mpaudit.finding import Span
from mpaudit.source.api.keras_names import last
from mpaudit.source.engine.registry import on_binary, on_operation
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import NONE, Const, External, Pack, Thing, Value
from mpaudit.source.library.keras.dtype import SEEN, name_of, reasons
from mpaudit.source.library.keras.names import text
from mpaudit.source.library.keras.values import LayerOf
from mpaudit.source.library.tensorflow.dtypes import kind_of

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

_HALF = "float16"
_LINEAR = ("Dense", "EinsumDense")
_OPEN_ACTIVATIONS = (None, "linear", "relu", "gelu", "silu", "swish", "leaky_relu", "elu")
_OPEN_LAYERS = frozenset(
    """Activation ReLU LeakyReLU ELU Dropout SpatialDropout1D SpatialDropout2D Flatten Reshape Permute
    Identity Add Concatenate MaxPooling1D MaxPooling2D GlobalMaxPooling1D GlobalMaxPooling2D""".split()  # noqa: SIM905
)
"""What leaves large values large."""
_OPEN = frozenset(
    """relu gelu silu leaky_relu dropout reshape transpose squeeze expand_dims identity cast abs
    negative stop_gradient concat concatenate ensure_shape boolean_mask gather""".split()  # noqa: SIM905
)
_ANY, _DIFFERENCE = Const("any"), Const("difference")
"""Why nothing bounds a tensor. Only sums are told of differences: what a loss averages is small."""
_SUMS = {"reduce_sum": "sum", "sum": "sum", "reduce_mean": "mean", "mean": "mean"}
_NORMS = ("norm", "l2_loss")


@on_result(
    functions=lambda name: kind_of(name) is not None,
    methods=(),
    kinds=("KerasLayer",),
    given=SEEN,
)
def called(call: Call, callee: Value, made: Value) -> None:
    """A layer, a square or a sum of TensorFlow is over."""
    path = call.path
    if not isinstance(made, Thing) or not call.arguments:
        return
    if isinstance(callee, Thing):
        path.learn(made, wide16=_through(callee, path.known(call.arguments[0], "@wide16"), path))
        return
    name, tensor, node = last(call.name), call.arguments[0], call.argument_node(0)
    if not isinstance(tensor, Thing) or node is None:
        return
    if name in _OPEN:
        items = tensor if name not in ("concat", "concatenate") else path.known(tensor, "@items")
        sources = items.items if isinstance(items, Pack) else (tensor,)
        path.learn(made, wide16=_first(sources, path))
    elif name in _SUMS:
        path.learn(made, mean16=tensor if _SUMS[name] == "mean" else None)
        _reduced(call, _SUMS[name], tensor)
    elif name in _NORMS and _plain(call):
        known = path.known(tensor, "@wide16")
        if known == _ANY or (known is not None and name == "norm"):
            spelt = " ".join(path.frame.module.source(node).split())
            _tell(call, "norm" if name == "norm" else "sum", tensor, spelt, call.span)
    elif name == "square" or (name == "pow" and call.argument(1, "y") in (Const(2), Const(2.0))):
        _squared(tensor, node, made, path.known(tensor, "@wide16"), call.engine, path, call.span)
    elif name == "squared_difference":
        known = _difference((tensor, call.argument(1, "y")), path)
        _squared(made, None, made, known, call.engine, path, call.span)


@on_operation
def operated(
    _: Calls, operation: str, operands: tuple[Value, ...], made: Thing, path: Path
) -> None:
    """Sums of such tensors, their differences, parts of them."""
    if SEEN not in path.heap or operation not in ("Add", "Sub", "[]", "USub"):
        return
    if operation == "Sub":
        path.learn(made, wide16=_difference(operands, path))
    else:
        counted = operands if operation == "Add" else operands[:1]
        path.learn(made, wide16=_first(counted, path))


def _first(values: tuple[Value, ...], path: Path) -> Value | None:
    return next((known for each in values if (known := path.known(each, "@wide16"))), None)


@on_binary
def multiplied(
    engine: Calls, node: ast.BinOp | ast.AugAssign, left: Value, right: Value, path: Path
) -> None:
    """`h * h`, `h ** 2`."""
    if SEEN not in path.heap or not isinstance(node, ast.BinOp) or not isinstance(left, Thing):
        return
    operation = type(node.op).__name__
    power = operation == "Pow" and right in (Const(2), Const(2.0))
    if power or (operation == "Mult" and left == right):
        made, known = engine.term(operation, left, right), path.known(left, "@wide16")
        _squared(left, node.left, made, known, engine, path, path.frame.module.span(node))


def _difference(operands: tuple[Value | None, ...], path: Path) -> Value | None:
    """A tensor less its own mean is as wide as it was, less something else it may be small."""
    known = [path.known(each, "@wide16") for each in operands if each is not None]
    if not any(known):
        return None
    left, right = operands
    mean = None if right is None else path.known(right, "@mean16")
    return known[0] if mean is not None and mean == left else _DIFFERENCE


def _squared(
    tensor: Thing,
    node: ast.expr | None,
    made: Thing,
    known: Value | None,
    engine: Calls,
    path: Path,
    at: Span,
) -> None:
    if known is None or name_of(tensor, path) != _HALF:
        return
    spelt = "" if node is None else " ".join(path.frame.module.source(node).split())
    engine.places[made.uid] = at
    path.learn(made, squared16=Pack((tensor, Const(spelt), known)))


def _reduced(call: Call, operation: str, tensor: Thing) -> None:
    path = call.path
    held = path.known(tensor, "@squared16")
    if not isinstance(held, Pack) or name_of(tensor, path) != _HALF:
        return
    base, spelt, known = held.items
    axis = call.argument(1, "axis")
    if operation == "mean" and (known != _ANY or axis in (None, NONE)):
        return  # what a loss is made of stays small
    if isinstance(base, Thing):
        squared = call.engine.places.get(tensor.uid, call.span)
        _tell(call, operation, base, text(spelt) or "", squared)


def _tell(call: Call, operation: str, tensor: Thing, spelt: str, squared: Span) -> None:
    path = call.path
    if name_of(tensor, path) != _HALF:
        return
    call.emit(
        SquaresReduced(
            at=call.span,
            occasional=call.occasional,
            operation=operation,
            tensor=Ref(tensor.uid, spelt),
            squared=squared,
            because=reasons(tensor, path),
            library="tensorflow",
        )
    )


def _plain(call: Call) -> bool:
    """Whether a norm is the Euclidean one."""
    order = call.keywords.get("ord", call.arguments[1] if len(call.arguments) > 1 else None)
    return order in (None, NONE, Const(2), Const("euclidean"))


def _through(layer: Thing, before: Value | None, path: Path) -> Value | None:
    """What a layer of Keras makes of what nothing bounds."""
    known = path.known(layer, "@layer")
    if not isinstance(known, LayerOf):
        return None
    activation = known.activation
    name = last(activation.name) if isinstance(activation, External) else text(activation)
    opened = activation == NONE or (name in _OPEN_ACTIVATIONS and name is not None)
    if known.name in _LINEAR or "Conv" in known.name:
        return _ANY if opened and "LSTM" not in known.name else None
    return before if known.name in _OPEN_LAYERS and (opened or known.name != "Activation") else None

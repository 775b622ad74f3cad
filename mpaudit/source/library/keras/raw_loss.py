"""Losses that are put together by hand from what leaves a model in float16.

What is computed from such an output carries the fact `@raw`, until the loss it becomes is
differentiated. A cast of the output ends it; Keras' own losses are another matter.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpaudit.event import RawLoss, Ref
from mpaudit.finding import Span
from mpaudit.source.api.keras_names import last
from mpaudit.source.engine.registry import on_binary, on_operation
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import Const, External, Pack, Thing, Value
from mpaudit.source.library.keras.dtype import (
    SEEN,
    held,
    in_call,
    name_of,
    reasons,
    strict,
    tensors_of,
)
from mpaudit.source.library.keras.names import flat
from mpaudit.source.library.keras.values import read
from mpaudit.source.library.tensorflow.dtypes import kind_of, promotes

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

ARITHMETIC = frozenset(
    """abs add add_n divide exp l2_loss log log1p log_sigmoid log_softmax logsumexp maximum mean
    minimum multiply negative norm pow reduce_logsumexp reduce_mean reduce_sum sigmoid softmax
    softplus sqrt square squared_difference subtract sum truediv huber""".split()  # noqa: SIM905
)
"""What makes numbers of an output other numbers."""
SCALING = ("scale_loss", "get_scaled_loss")


@on_binary
def computed(
    engine: Calls, node: ast.BinOp | ast.AugAssign, left: Value, right: Value, path: Path
) -> None:
    """`y - model(x)`."""
    if SEEN not in path.heap or in_call(path):
        return
    raw = _raw((left, right), path.frame.module.span(node), path)
    if raw is not None and strict(path, (left, right)):
        made = engine.term(type(node.op).__name__, left, right)
        path.learn(made, raw=raw)


@on_operation
def negated(_: Calls, operation: str, operands: tuple[Value, ...], made: Thing, path: Path) -> None:
    """`-loss`, `losses[0]`."""
    if operation in ("USub", "[]") and SEEN in path.heap:
        path.learn(made, raw=path.known(operands[0], "@raw"))


@on_result(given=SEEN)
def called(call: Call, callee: Value, made: Value) -> None:
    """`tf.square(error)`; and in the end, `tape.gradient(loss, variables)`."""
    path = call.path
    if not isinstance(made, Thing) or in_call(path):
        return
    if isinstance(callee, External):
        _function(call, callee.name, made)
    elif call.name in SCALING and call.arguments:
        path.learn(made, raw=path.known(call.arguments[0], "@raw"))
    elif isinstance(call.receiver, Thing):
        kind = call.receiver.kind
        if kind == "GradientTape" and call.name == "gradient":
            _differentiated(call, call.argument(0, "target"))
        elif kind == "KerasOptimizer" and call.name == "minimize":
            _differentiated(call, call.argument(0, "loss"))


def _function(call: Call, name: str, made: Thing) -> None:
    path, word = call.path, last(name)
    if not name.startswith(("tensorflow.", "keras.", "tf_keras.", "builtins.sum")):
        return
    sources = tensors_of(call)
    known = next((r for s in sources if (r := path.known(s, "@raw")) is not None), None)
    if known is None and word in ARITHMETIC and kind_of(name) is not None:
        if promotes(name) and name_of(made, path) != "float16":
            return
        known = _raw(sources, call.span, path)
    path.learn(made, raw=known)


def _raw(operands: Sequence[Value], at: Span, path: Path) -> Value | None:
    """Where it began, if one of the operands is raw, or is itself what left a model in float16."""
    for operand in operands:
        known = path.known(operand, "@raw")
        if known is not None:
            return known
    for operand in operands:
        dtype = held(operand, path)
        is_output = dtype is not None and dtype.name == "float16" and dtype.how == "layer"
        if is_output and read(operand, path).layer is not None:
            return Pack((operand, Const(at)))
    return None


def _differentiated(call: Call, loss: Value | None) -> None:
    path = call.path
    for each in flat(loss, path):
        known = path.known(each, "@raw")
        if not isinstance(known, Pack):
            continue
        output, at = known.items
        span = at.value if isinstance(at, Const) else None
        called = path.known(output, "@called")
        where = called.value if isinstance(called, Const) else None
        if isinstance(span, Span) and isinstance(output, Thing):
            call.emit(
                RawLoss(
                    at=span,
                    output=Ref(output.uid, ""),
                    called=where if isinstance(where, Span) else None,
                    differentiated=call.span,
                    because=reasons(output, path),
                )
            )

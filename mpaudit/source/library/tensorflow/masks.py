"""Infinities that a constant has put into a float16 tensor: told of once a softmax is taken of it.

-inf hides a position from a softmax as well as -1e9 does, until a row holds nothing else. For anything
else that is done with it, it may be what was meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import ConstantMet
from mpaudit.source.api.keras_names import last
from mpaudit.source.engine.registry import on_operation
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import Const, External, Thing, Value
from mpaudit.source.library.keras.dtype import SEEN
from mpaudit.source.library.keras.names import text
from mpaudit.source.library.keras.values import LayerOf
from mpaudit.source.library.tensorflow.dtypes import kind_of

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

_SAME = frozenset(
    """reshape transpose squeeze expand_dims identity cast convert_to_tensor add subtract multiply where
    tile repeat ensure_shape""".split()  # noqa: SIM905
)
_SOFTMAX = ("softmax", "log_softmax", "logsumexp", "reduce_logsumexp")


def hidden_by(made: Value, event: ConstantMet, path: Path) -> None:
    """Note that a constant which becomes inf was put into a tensor."""
    if isinstance(made, Thing):
        path.learn(made, infinite=Const(event))


@on_operation
def operated(
    _: Calls, operation: str, operands: tuple[Value, ...], made: Thing, path: Path
) -> None:
    """`scores + bias`, `scores[0]`."""
    if (
        SEEN in path.heap
        and operation in ("Add", "Sub", "[]")
        and not path.known(made, "@infinite")
    ):
        path.learn(made, infinite=_of(operands, path))


@on_result(
    functions=lambda name: kind_of(name) is not None,
    methods=(),
    kinds=("KerasLayer",),
    given=SEEN,
)
def called(call: Call, callee: Value, made: Value) -> None:
    """`tf.nn.softmax(scores)`, `self.softmax(scores)`."""
    path = call.path
    if not call.arguments:
        return
    if isinstance(callee, External):
        name = last(callee.name)
        if name in _SOFTMAX:
            _tell(call)
        elif name in _SAME and isinstance(made, Thing) and not path.known(made, "@infinite"):
            path.learn(made, infinite=_of(call.arguments, path))
    else:
        known = path.known(callee, "@layer")
        if isinstance(known, LayerOf) and "softmax" in (
            known.name.lower(),
            text(known.activation) or "",
        ):
            _tell(call)


def _of(values: tuple[Value, ...], path: Path) -> Value | None:
    return next((known for each in values if (known := path.known(each, "@infinite"))), None)


def _tell(call: Call) -> None:
    known = call.path.known(call.arguments[0], "@infinite")
    if isinstance(known, Const) and isinstance(known.value, ConstantMet):
        call.emit(known.value)

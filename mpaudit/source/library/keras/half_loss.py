"""Keras losses that are told to compute in float16, and what is cast to float16 on its way to one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import HalfLossGiven, HalfLossMade
from mpaudit.source.api.keras_names import ROOTS, last
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import External, Thing, Value
from mpaudit.source.library.keras.dtype import SEEN, dtype_named, held
from mpaudit.source.library.keras.losses import WITH_LOGITS
from mpaudit.source.library.keras.names import text

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

_LOSSES = (*(f"{root}.losses." for root in ROOTS), "tensorflow.losses.")
MEASURING = frozenset(
    """MeanSquaredError MeanAbsoluteError MeanAbsolutePercentageError MeanSquaredLogarithmicError Huber
    LogCosh Poisson mean_squared_error mean_absolute_error mean_absolute_percentage_error
    mean_squared_logarithmic_error mse mae mape msle huber log_cosh poisson MSE MAE""".split()  # noqa: SIM905
)
"""Losses whose labels are measured, and not counted: those lose digits in float16."""


def _is_loss(name: str) -> bool:
    return name in WITH_LOGITS or name.startswith(_LOSSES)


@on_result(functions=_is_loss, methods=(), kinds=("KerasLoss",))
def called(call: Call, callee: Value, made: Value) -> None:
    """`MeanSquaredError(dtype="float16")`, `loss_fn(tf.cast(y, tf.float16), prediction)`."""
    if isinstance(callee, External):
        if callee.name in WITH_LOGITS:
            _given(call, last(callee.name), None, call.argument(1, "logits"))
        elif isinstance(made, Thing) and made.kind == "KerasLoss":
            _made(call, last(callee.name))
        else:
            name = last(callee.name)
            _given(call, name, call.argument(0, "y_true"), call.argument(1, "y_pred"))
    else:
        name = text(call.path.known(callee, "@loss")) or "the loss"
        _given(call, name, call.argument(0, "y_true"), call.argument(1, "y_pred"))


def _made(call: Call, name: str) -> None:
    given = call.keywords.get("dtype")
    if given is not None and dtype_named(given, call.path) == "float16":
        call.emit(HalfLossMade(at=call.span, occasional=call.occasional, loss=name))


def _given(call: Call, name: str, labels: Value | None, prediction: Value | None) -> None:
    path = call.path
    if SEEN not in path.heap:
        return
    parts = [("prediction", prediction)]
    if name in MEASURING:
        parts.append(("labels", labels))
    for part, value in parts:
        known = held(value, path)
        if known is not None and known.name == "float16" and known.how == "cast" and known.at:
            call.emit(
                HalfLossGiven(
                    at=known.at,
                    occasional=call.occasional,
                    loss=name,
                    part=part,
                    computed=call.span,
                )
            )

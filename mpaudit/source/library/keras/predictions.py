"""Predictions of 16 bits that leave Keras: for numpy, scikit-learn, pandas, and Keras' own metrics.

An array of such predictions carries the fact `@array`: its dtype, and the layer that it left. What
gives it another dtype (`astype`, arithmetic with something unknown) ends that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import PredictionsUsed, Ref
from mpaudit.source.api.keras_names import ROOTS, last
from mpaudit.source.engine.dtypes import Dtype
from mpaudit.source.engine.registry import method, on_operation
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import Const, External, Pack, Thing, Value
from mpaudit.source.library.keras.dtype import SEEN, held, in_call
from mpaudit.source.library.keras.models import leaving, outlets
from mpaudit.source.library.keras.sequence import through_call
from mpaudit.source.library.keras.training import use
from mpaudit.source.library.keras.values import read
from mpaudit.source.library.tensorflow.dtypes import HALF
from mpaudit.source.trait.keras_version import generation

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

SAME = ("squeeze", "reshape", "flatten", "ravel", "transpose", "copy", "clip", "round", "take")
SUMMING = frozenset(
    """sum nansum cumsum dot vdot inner trace square var std nanvar nanstd average mean nanmean
    linalg.norm trapezoid trapz""".split()  # noqa: SIM905
)
WIDE_IN_HALF = ("mean", "nanmean", "average")
"""What numpy computes in float32 for float16, but not for bfloat16."""
SAVING = ("save", "savez", "savez_compressed")
SQUARING = ("mean_squared_error", "root_mean_squared_error", "r2_score", "explained_variance_score")
SCORES = ("log_loss", "mean_squared_log_error", "d2_log_loss_score")
METRICS = (
    "MeanSquaredError",
    "RootMeanSquaredError",
    "MeanSquaredLogarithmicError",
)
_METRICS = tuple(f"{root}.metrics." for root in ROOTS)


@method("KerasModel", "predict", "predict_on_batch")
def predict(call: Call) -> Value:
    """`model.predict(x)`: an array in the dtype that leaves the model."""
    path, model = call.path, call.thing
    known: Dtype | None = None
    layer: Thing | None = None
    if SEEN in path.heap:
        given = call.engine.term("inputs", model)
        through = through_call(call, model, given)
        if through is not None:
            known, layer = held(through, path), read(through, path).layer
        else:
            dtypes, found = leaving(model, call), outlets(model, call)
            if len(dtypes) == len(found) == 1:
                known, layer = dtypes[0], found[0].layer
    made = use(call)
    if isinstance(made, Thing) and layer is not None:
        _array(made, known, layer, call)
    return made


def _array(made: Thing, known: Dtype | None, layer: Thing, call: Call) -> None:
    if known is not None and known.name in HALF and known.how == "layer":
        array = Pack((Const(known.name), layer, Const(call.span)))
        call.path.learn(made, array=array)


@on_operation
def operated(
    _: Calls, operation: str, operands: tuple[Value, ...], made: Thing, path: Path
) -> None:
    """Parts of an array, and arithmetic with numbers."""
    if SEEN not in path.heap or not operands:
        return
    arrays = [each for each in operands if path.known(each, "@array") is not None]
    others = [each for each in operands if each not in arrays]
    if operation in ("[]", "USub"):
        path.learn(made, array=path.known(operands[0], "@array"))
    elif arrays and all(map(_number, others)):
        path.learn(made, array=path.known(arrays[0], "@array"))


def _number(value: Value) -> bool:
    return isinstance(value, Const) and isinstance(value.value, (int, float))


@on_result(given=SEEN)
def called(call: Call, callee: Value, made: Value) -> None:
    """A call of a library is over: it made such an array, passed it on, or used it."""
    path = call.path
    if in_call(path):
        return
    if isinstance(callee, External):
        _function(call, callee.name, made)
    elif isinstance(call.receiver, Thing):
        _method(call, call.receiver, made)
    elif isinstance(callee, Thing) and path.known(callee, "@metric") is not None:
        _measured(call, callee)


def _method(call: Call, receiver: Thing, made: Value) -> None:
    path, known = call.path, call.path.known(call.receiver or receiver, "@array")
    if call.name == "numpy" and isinstance(made, Thing):
        layer = read(receiver, path).layer
        if layer is not None:
            _array(made, held(receiver, path), layer, call)
    elif call.name in ("update_state", "__call__") and path.known(receiver, "@metric"):
        _measured(call, receiver)
    elif known is not None and call.name in SAME and isinstance(made, Thing):
        path.learn(made, array=known)
    elif known is not None and call.name in SUMMING:
        _used(call, known, call.name, "summed")


def _function(call: Call, name: str, made: Value) -> None:
    path, word = call.path, last(name)
    if name.startswith(_METRICS) and word in METRICS and isinstance(made, Thing):
        if generation(name, path.frame.module) == 3:
            path.learn(made, metric=Const(word))
        return
    given = [*call.arguments, *call.keywords.values()]
    arrays = [known for each in given if (known := path.known(each, "@array")) is not None]
    if not arrays:
        return
    if name.startswith("numpy."):
        inner = name.removeprefix("numpy.")
        if inner in SAVING:
            _used(call, arrays[0], inner, "saved")
        elif inner in SUMMING and "dtype" not in call.keywords:
            _used(call, arrays[0], inner, "summed")
        elif inner in (*SAME, "array", "asarray") and "dtype" not in call.keywords:
            if isinstance(made, Thing) and len(call.arguments) == 1:
                path.learn(made, array=arrays[0])
    elif name.startswith("sklearn.metrics.") and (word in SQUARING or word in SCORES):
        _used(call, arrays[0], word, "scored")
    elif name in ("pandas.Series", "pandas.DataFrame"):
        _used(call, arrays[0], word, "framed")


def _used(call: Call, array: Value, what: str, how: str) -> None:
    if not isinstance(array, Pack):
        return
    name, layer, at = array.items
    dtype = str(name.value) if isinstance(name, Const) else ""
    wide = dtype == "float16" and (how in ("saved", "framed") or what in WIDE_IN_HALF)
    if wide or not isinstance(layer, Thing) or not isinstance(at, Const):
        return
    call.emit(
        PredictionsUsed(
            at=call.span,
            occasional=call.occasional,
            layer=Ref(layer.uid, ""),
            dtype=dtype,
            what=what,
            how=how,
            predicted=at.value,  # type: ignore[arg-type]
        )
    )


def _measured(call: Call, metric: Thing) -> None:
    """`metric.update_state(y, model(x))` with squares in float16."""
    path = call.path
    given, name = call.argument(1, "y_pred"), path.known(metric, "@metric")
    known = held(given, path)
    layer = None if given is None else read(given, path).layer
    if known is None or known.name != "float16" or known.how != "layer" or layer is None:
        return
    call.emit(
        PredictionsUsed(
            at=call.span,
            occasional=call.occasional,
            layer=Ref(layer.uid, ""),
            dtype=known.name,
            what=str(name.value) if isinstance(name, Const) else "",
            how="measured",
            predicted=None,
        )
    )

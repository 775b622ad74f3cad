"""What is given to Keras layers that compute in float16 and lies beyond its range."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import InputBeyondHalf
from mpaudit.finding import Related, Span
from mpaudit.source.api.keras_names import everywhere
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import TRUE, Class, External, Pack, Thing, Value
from mpaudit.source.library.keras.dtype import SEEN, compute_dtype_of, held, in_call
from mpaudit.source.library.keras.names import flat
from mpaudit.source.library.keras.values import LayerOf, origin
from mpaudit.source.library.python.number import number
from mpaudit.source.library.python.numpy_range import RANGED, reach

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

LARGEST = 65504.0
ROUNDED_UP = 65520.0
"""Numbers from here on are rounded to inf."""
SPREAD = 1200.0
"""A range from which on the variance is certainly beyond 65504, whatever lies within it."""
_PREPARING = ("Normalization", "Rescaling")
_TAKING_ANY = frozenset(
    """Embedding StringLookup IntegerLookup TextVectorization Hashing HashedCrossing CategoryEncoding
    Discretization Resizing CenterCrop InputLayer Lambda TFSMLayer""".split()  # noqa: SIM905
)
"""Layers that do not cast what they are given, or of which that is not known."""
_NUMBERS = ("Dense", "EinsumDense", *_PREPARING)
"""Layers that cast whole numbers as well."""
_USING = ("fit", "predict", "predict_on_batch", "evaluate", "train_on_batch", "test_on_batch")
_MAKING = everywhere(
    *(f"layers.{name}" for name in _PREPARING),
    *(f"layers.experimental.preprocessing.{name}" for name in _PREPARING),
)
MAX_TENSORS = 2000


@on_result(functions=_MAKING, given=SEEN)
def called(call: Call, callee: Value, made: Value) -> None:
    """A layer or model is called, fitted, adapted, or made for inputs that float16 does not have."""
    if isinstance(callee, External):
        if isinstance(made, Thing):
            _made_for(call, made)
        return
    receiver = call.receiver
    if RANGED not in call.path.heap or not isinstance(receiver, Thing):
        return
    if receiver.kind == "KerasModel" and (callee == receiver or call.name in _USING):
        given(call, receiver, call.argument(0, "x"))
    elif receiver.kind == "KerasLayer" and callee == receiver:
        given(call, receiver, call.argument(0, "inputs"))
    elif receiver.kind == "KerasLayer" and call.name == "adapt":
        _adapted(call, receiver)


def _made_for(call: Call, layer: Thing) -> None:
    """`Rescaling(1 / 65535)`, `Normalization(mean=2e5, variance=1e10)`."""
    if compute_dtype_of(layer, call.path) != "float16":
        return
    identities = call.engine.identities
    if call.name.endswith("Rescaling"):
        scale = number(call.argument(0, "scale"), identities)
        if scale is not None and 0 < abs(scale) <= 1 / ROUNDED_UP:
            _tell(call, "Rescaling", "scaled", 1 / abs(scale), None)
        return
    variance = number(call.argument(2, "variance"), identities)
    mean = number(call.argument(1, "mean"), identities)
    if variance is not None and variance >= ROUNDED_UP:
        _tell(call, "Normalization", "spread", variance, None)
    elif mean is not None and abs(mean) >= ROUNDED_UP:
        _tell(call, "Normalization", "centred", abs(mean), None)


def _adapted(call: Call, layer: Thing) -> None:
    """`normalization.adapt(x)` of values that lie far apart."""
    path, known = call.path, call.path.known(layer, "@layer")
    if not isinstance(known, LayerOf) or known.name != "Normalization":
        return
    found = reach(call.argument(0, "data"), path)
    if found is None or compute_dtype_of(layer, path) != "float16":
        return
    if found[1] - found[0] > SPREAD:
        at = call.engine.places.get(layer.uid)
        path.learn(layer, beyond=TRUE)
        _tell(call, "Normalization", "spread", (found[1] - found[0]) ** 2 / 12, at)


def given(call: Call, taker: Thing, data: Value | None) -> None:
    """Data reach the first layer of a model, which casts them to float16."""
    path = call.path
    if SEEN not in path.heap or RANGED not in path.heap or in_call(path):
        return
    found = reach(data, path)
    if found is None or max(abs(found[0]), abs(found[1])) < ROUNDED_UP:
        return
    if path.known(taker, "@beyond") is not None:
        return  # it was said already
    largest = max(abs(found[0]), abs(found[1]))
    for layer in _first(taker, path):
        name = _kind(layer, path)
        if compute_dtype_of(layer, path) != "float16" or name in _TAKING_ANY:
            continue
        if found[2] and name not in _NUMBERS:
            continue  # whole numbers may be indices
        if path.known(layer, "@beyond") is not None:
            return
        path.learn(taker, beyond=TRUE)
        _tell(call, name or "the model", "given", largest, call.engine.places.get(layer.uid))
        return


def _kind(layer: Thing, path: Path) -> str:
    known = path.known(layer, "@layer")
    return known.name if isinstance(known, LayerOf) else ""


def _first(taker: Thing, path: Path) -> list[Thing]:
    """The layers that see the data of a model first; itself, where it casts for its own `call`."""
    if taker.kind == "KerasLayer" or isinstance(path.known(taker, "@class"), Class):
        return [taker]
    outputs, items = path.known(taker, "@outputs"), path.known(taker, "@items")
    if isinstance(outputs, Pack):
        return _behind_inputs(outputs, path)
    for item in items.items if isinstance(items, Pack) else ():
        if isinstance(item, Thing) and item.kind == "KerasLayer":
            return [item]
        if isinstance(item, Thing) and item.kind == "KerasModel":
            return _first(item, path)
        if not isinstance(item, Thing) or held(item, path) is None:
            return []  # not an Input
    return []


def _behind_inputs(outputs: Pack, path: Path) -> list[Thing]:
    """The layers of a functional model of one input that are called on it."""
    found: list[Thing] = []
    inputs: set[int] = set()
    waiting: list[Value] = list(outputs.items)
    seen: set[int] = set()
    while waiting and len(seen) < MAX_TENSORS:
        tensor = waiting.pop()
        if not isinstance(tensor, Thing) or tensor.uid in seen:
            continue
        seen.add(tensor.uid)
        known = origin(tensor, path)
        sources = flat(Pack(known.inputs), path) if known is not None else []
        if known is None or not sources:
            inputs.add(tensor.uid)
            continue
        waiting += sources
        for source in sources:
            before = origin(source, path)
            if before is not None and not before.inputs and known.by is not None:
                found.append(known.by)
    return found if len(inputs) == 1 else []


def _tell(call: Call, layer: str, how: str, value: float, made: Span | None) -> None:
    because = () if made is None else (Related(made, "the layer is built here"),)
    call.emit(
        InputBeyondHalf(
            at=call.span,
            occasional=call.occasional,
            layer=layer,
            how=how,
            value=value,
            because=because,
        )
    )

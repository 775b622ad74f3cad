"""What layers do to dtypes: they cast what they are given, and compute in the dtype of their policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mpaudit.source.engine.dtypes import Dtype
from mpaudit.source.engine.path import lookup
from mpaudit.source.engine.registry import entered, kind_of, method
from mpaudit.source.engine.values import (
    FALSE,
    NONE,
    TRUE,
    Class,
    Const,
    Function,
    Pack,
    Thing,
    Value,
)
from mpaudit.source.library.keras.dtype import (
    SEEN,
    WEIGHT,
    compute_dtype_of,
    dtype_named,
    held,
    hold,
    keep,
    symbolic,
)
from mpaudit.source.library.keras.names import site
from mpaudit.source.library.keras.policy_name import policy_name
from mpaudit.source.library.keras.values import LayerOf, Tensor, read
from mpaudit.source.library.tensorflow.dtypes import FLOATS
from mpaudit.source.trait.keras_version import generation

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

COMPUTING = frozenset(
    """Dense EinsumDense Embedding LSTM GRU SimpleRNN BatchNormalization LayerNormalization
    GroupNormalization UnitNormalization RMSNormalization MultiHeadAttention GroupQueryAttention
    Attention AdditiveAttention Normalization Softmax ReLU LeakyReLU ELU PReLU Activation Rescaling
    GaussianNoise GaussianDropout AlphaDropout LocallyConnected1D LocallyConnected2D ConvLSTM1D ConvLSTM2D
    ConvLSTM3D""".split()  # noqa: SIM905
)
"""Layers whose output is in their compute dtype, whatever they are given."""
PASSING = frozenset(
    """Flatten Reshape Permute RepeatVector Dropout SpatialDropout1D SpatialDropout2D
    SpatialDropout3D Identity Add Subtract Multiply Average Maximum Minimum Concatenate Dot Masking
    Cropping1D Cropping2D Cropping3D ZeroPadding1D ZeroPadding2D ZeroPadding3D UpSampling1D
    UpSampling2D UpSampling3D""".split()  # noqa: SIM905
)
"""Layers that leave integers alone."""


def computed_in(layer: Thing, given: Dtype | None, call: Call) -> Dtype | None:
    """The dtype of what leaves a layer of Keras that is given a tensor, None if it is not known."""
    path = call.path
    known = path.known(layer, "@layer")
    name = compute_dtype_of(layer, path)
    if not isinstance(known, LayerOf) or name is None:
        return None
    if isinstance(known.inner, Thing) and known.inner.kind == "KerasLayer":
        return computed_in(known.inner, given, call)
    kind = known.name
    floats = kind in COMPUTING or "Conv" in kind or "Pool" in kind
    if not floats and not (kind in PASSING and given is not None and given.name in FLOATS):
        return None
    return Dtype(name, call.engine.places.get(layer.uid), "layer")


def build(call: Call) -> None:
    """Follow the `build` of a project's own layer when it is first called."""
    path, layer = call.path, call.thing
    owner = path.known(layer, "@class")
    found = lookup(path, owner, "build") if isinstance(owner, Class) else None
    if not isinstance(found, Function) or path.known(layer, "@built") is not None:
        return
    place = site(call.node, "build")
    done = path.frame.done
    if place not in done:
        shape = call.engine.term("shape", layer)
        done[place] = call.engine.enter(place, found, (layer, shape), {}, path)
    path.learn(layer, built=TRUE)


def cast_inputs(call: Call) -> None:
    """A project's own layer or model is called: its `call` sees floats in the compute dtype.

    Keras 3 casts all tensors, Keras 2 those of the first argument.
    """
    path, layer = call.path, call.thing
    if SEEN not in path.heap:
        return
    name = None if path.known(layer, "@autocast") == FALSE else compute_dtype_of(layer, path)
    owner = path.known(layer, "@class")
    base = kind_of(owner)[1] if isinstance(owner, Class) else None
    three = base is not None and generation(base, path.frame.module) == 3
    call.arguments = tuple(
        _cast(value, name if three or not index else None, call)
        for index, value in enumerate(call.arguments)
    )
    keywords: Mapping[str, Value] = {
        key: _cast(value, name if three else None, call) for key, value in call.keywords.items()
    }
    call.keywords = keywords


@entered("KerasLoss")
def cast_for_loss(call: Call) -> None:
    """A project's own loss is called: in Keras 3 its `call` sees float32, in Keras 2 what it is given."""
    path = call.path
    owner = path.known(call.thing, "@class")
    base = kind_of(owner)[1] if isinstance(owner, Class) else None
    three = None if base is None else generation(base, path.frame.module)
    if SEEN not in path.heap or three == 2:
        return
    name = "float32" if three == 3 else None
    call.arguments = tuple(_cast(value, name, call) for value in call.arguments)
    call.keywords = {key: _cast(value, name, call) for key, value in call.keywords.items()}


def _cast(value: Value, name: str | None, call: Call) -> Value:
    path = call.path
    if isinstance(value, Pack):
        return Pack(tuple(_cast(item, name, call) for item in value.items))
    items = path.known(value, "@items")
    if isinstance(items, Pack) and isinstance(value, Thing) and value.kind == "list":
        inside = tuple(_cast(item, name, call) for item in items.items)
        if inside == items.items:
            return value
        made = call.engine.term("autocast", value, Const(name), call.thing)
        made = Thing(made.uid, "list", made.since)
        return path.learn(call.engine.derive(made, inside, path), items=Pack(inside))
    known = held(value, path)
    if known is None or known.name not in FLOATS or not isinstance(value, Thing):
        return value
    if known.name == name and not symbolic(value, path):
        return value
    made = call.engine.term("autocast", value, Const(name), call.thing)
    call.engine.derive(made, (value,), path)
    path.learn(made, tensor=Tensor((value,), None, read(value, path)), symbolic=FALSE)
    path.learn(made, wide16=path.known(value, "@wide16"))
    return hold(made, name, call.engine.places.get(call.thing.uid), path, "input")


@method("KerasLayer", "add_weight", "add_variable")
def add_weight(call: Call) -> Value:
    """`self.add_weight(shape=(3,), dtype="float16")`."""
    path, given = call.path, call.keywords.get("dtype")
    own = "" if given in (None, NONE) else dtype_named(given, path) or "?"
    if own == "float32":  # as without a dtype: a layer reads its weights in its compute dtype
        own = ""
    for option in ("autocast", "experimental_autocast"):
        if call.keywords.get(option, NONE) == FALSE:
            own = own or "float32"
    made = call.made(WEIGHT)
    call.engine.places[made.uid] = call.span
    return path.learn(made, weight=Pack((call.thing, Const(own), Const(call.span))))


method("KerasModel", "add_weight", "add_variable")(add_weight)


def leaves(layer: Thing, made: Thing, given: Value | None, call: Call) -> Thing:
    """Note the dtype of what leaves a layer of Keras. Returns it."""
    if SEEN in call.path.heap:
        keep(made, computed_in(layer, held(given, call.path), call), call.path)
    return made


def restated(call: Call, layer: Thing) -> str | None:
    """The policy that `super().__init__(dtype=..., **kwargs)` gives a layer: "?" if it is not known."""
    path = call.path
    if (
        call.keywords.get("autocast") == FALSE
        or call.keywords.get("experimental_autocast") == FALSE
    ):
        path.learn(layer, autocast=FALSE)
    given = call.keywords.get("dtype", call.keywords.get("dtype_policy"))
    rest = call.keywords.get("**")
    if given is None and isinstance(rest, Thing):
        given = path.heap.get((rest.uid, "['dtype']"))
    if given is None or given == NONE:
        return None
    return policy_name(given, path) or "?"

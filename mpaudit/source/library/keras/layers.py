"""Keras layers: how they are built, and what comes out of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import LayerMade, Ref
from mpaudit.source.api.keras_names import everywhere, last
from mpaudit.source.engine.registry import base, called, entered, function, initialised
from mpaudit.source.engine.values import NONE, TRUE, UNKNOWN, Class, Const, External, Thing, Value
from mpaudit.source.library.keras.autocast import build, cast_inputs, leaves, restated
from mpaudit.source.library.keras.dtype import SEEN, dtype_named, hold
from mpaudit.source.library.keras.input_range import given
from mpaudit.source.library.keras.names import computed, flat, keras, settled, text
from mpaudit.source.library.keras.policy import FLOATX_IN_FORCE, built, in_force
from mpaudit.source.library.keras.policy_name import compute_dtype, policy_name, refuse, stated
from mpaudit.source.library.keras.training_mode import training_handed_on
from mpaudit.source.library.keras.values import (
    OPAQUE,
    LayerOf,
    Outlet,
    Tensor,
    left,
    read,
    write,
)
from mpaudit.source.library.tensorflow.dtypes import HALF

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

NO_LAYERS = ("Input", "InputLayer", "InputSpec")
WITH_KERNEL = (
    *("Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D", "Convolution2D"),
    *("SeparableConv1D", "SeparableConv2D", "Conv2DTranspose", "Conv3DTranspose"),
)
UNCHANGED = (
    "Flatten",
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "Identity",
    "Permute",
    "Reshape",
    "RepeatVector",
)
ACTIVATION_AT = {
    "Dense": 1,
    "EinsumDense": 2,
    "Activation": 0,
    "Conv1D": 7,
    "Conv2D": 7,
    "Conv3D": 7,
}
"""At which position a layer takes its activation, where it is usual to leave out the keyword."""
MAX_PLAIN = 4
"""So many positional arguments of other layers end before the activation, in every version."""
NATURES = ("softmax", "log_softmax", "sigmoid")
ACTIVATIONS = (
    *everywhere(*(f"activations.{name}" for name in NATURES)),
    *everywhere("backend.softmax", "backend.sigmoid", "ops.softmax", "ops.log_softmax"),
    *everywhere("ops.sigmoid", "ops.nn.softmax", "ops.nn.sigmoid", "ops.nn.log_softmax"),
    "tensorflow.nn.softmax",
    "tensorflow.nn.log_softmax",
    "tensorflow.nn.sigmoid",
    "tensorflow.math.softmax",
    "tensorflow.math.log_softmax",
    "tensorflow.math.sigmoid",
    "tensorflow.sigmoid",
)


@keras("layers.*")
def make_layer(call: Call) -> Value | None:
    """`keras.layers.Dense(10, activation="softmax")`."""
    name = last(call.name)
    if name == "Input":
        return make_input(call)
    if not name[:1].isupper() or name in NO_LAYERS:
        return None if name in NO_LAYERS else computed(call, *call.arguments)
    return new_layer(call, call.made("KerasLayer"), name)


@keras("Input")
def make_input(call: Call) -> Value | None:
    """`keras.Input(shape=(784,))`."""
    path, given = call.path, call.keywords.get("dtype")
    known = None if path.heap.get(FLOATX_IN_FORCE) is not None else "float32"
    name = known if given in (None, NONE) else dtype_named(given, path)
    made = path.learn(computed(call), symbolic=TRUE)
    return hold(made, name, call.span, path)


def new_layer(call: Call, made: Thing, name: str) -> Thing:
    """Note what is known of a layer, and tell the protocols that it is built."""
    activation = call.argument(ACTIVATION_AT.get(name, 99), "activation")
    own = own_policy(call)
    if name in ("Softmax", "ReLU", "LeakyReLU"):
        activation = Const(name.lower())
    elif name in ("TimeDistributed", "Wrapper") or (activation is None and _hidden(call, name)):
        activation = UNKNOWN
    inner = call.argument(0, "layer") if name == "TimeDistributed" else None
    label = text(call.argument(99, "name"))
    call.path.learn(made, layer=LayerOf(name, activation or NONE, inner or NONE, label))
    call.engine.places[made.uid] = call.span
    path = call.path
    path.learn(made, policy=in_force(path) if own is None else stated(own))
    if compute_dtype(policy_name(path.known(made, "@policy"), path)) in HALF:
        path.heap[SEEN] = TRUE
    built(path)
    _tell(call, made, name, own)
    return made


def _tell(call: Call, made: Thing, name: str, own: str | None) -> None:
    known = call.path.known(made, "@layer")
    activation = known.activation if isinstance(known, LayerOf) else UNKNOWN
    call.emit(
        LayerMade(
            at=call.engine.places.get(made.uid, call.span),
            occasional=call.occasional,
            layer=Ref(made.uid, name),
            kind=name,
            policy=own,
            activation=activation_name(settled(call, activation), call.path),
        )
    )


def _hidden(call: Call, name: str) -> bool:
    """Whether an activation may be among arguments that cannot be told apart."""
    many = len(call.arguments) > MAX_PLAIN and name not in ACTIVATION_AT
    return "**" in call.keywords or (many and name in WITH_KERNEL)


def own_policy(call: Call) -> str | None:
    """The policy given by `dtype=`: None where there is none, "?" where it is not known."""
    given = call.keywords.get("dtype", call.keywords.get("dtype_policy"))
    if given is None:
        return "?" if "**" in call.keywords else None
    given = settled(call, given)
    node = call.argument_node(99, "dtype")
    refuse(call, given, None if node is None else call.path.frame.module.span(node))
    return None if given == NONE else policy_name(given, call.path) or "?"


def activation_name(value: Value | None, path: Path) -> str | None:
    """What an `activation=` argument is called: None for a linear one, "?" if it is not known."""
    if value is None or value == UNKNOWN:
        return "?"
    if isinstance(value, Thing) and value.kind == "KerasLayer":
        known = path.known(value, "@layer")
        return activation_name(known.activation if isinstance(known, LayerOf) else UNKNOWN, path)
    name = last(value.name) if isinstance(value, External) else text(value)
    if value == NONE or name == "linear":
        return None
    return name or "?"


def _adopt(call: Call, made: Thing, _: str) -> None:
    """An instance of a project's own layer class."""
    owner = call.path.known(made, "@class")
    new_layer(call, made, owner.node.name if isinstance(owner, Class) else "Layer")
    call.path.learn(made, layer=OPAQUE)


base("KerasLayer", *everywhere("layers.Layer", "Layer"), adopt=_adopt)


@initialised("KerasLayer")
def initialise(call: Call, layer: Thing) -> None:
    """`super().__init__(dtype="float32", **kwargs)` in a layer of the project's own class."""
    own = restated(call, layer)
    if own is not None:
        call.path.learn(layer, policy=stated(own))
        owner = call.path.known(layer, "@class")
        _tell(call, layer, owner.node.name if isinstance(owner, Class) else "Layer", own)


@entered("KerasLayer")
def entering(call: Call) -> None:
    """A project's own layer is called; its `build` is followed, and its `call`."""
    given(call, call.thing, call.argument(0))
    build(call)
    cast_inputs(call)
    training_handed_on(call)


def outlet(layer: Thing, call: Call, before: Outlet) -> Outlet:
    """What leaves a layer of Keras that is given what left `before`."""
    path = call.path
    known = settled(call, path.known(layer, "@layer"))
    if not isinstance(known, LayerOf) or known == OPAQUE or known.name == "Lambda":
        return Outlet()  # what a Lambda returns may well be cast
    if isinstance(known.inner, Thing) and known.inner.kind == "KerasLayer":
        return outlet(known.inner, call, before)
    activation = activation_name(settled(call, known.activation), path)
    if known.name in UNCHANGED or (known.name == "Activation" and activation is None):
        return Outlet(layer, before.got, before.shown)
    if activation in NATURES:
        return Outlet(layer, activation, layer)
    linear = activation is None and known.name in WITH_KERNEL
    return Outlet(layer, "logits" if linear else None, layer if linear else None)


@called("KerasLayer")
def call_layer(call: Call) -> Value:
    """`layer(x)`."""
    layer, sources = call.thing, (*call.arguments, *call.keywords.values())
    given = flat(call.argument(0), call.path)
    found = outlet(layer, call, read(given[0] if given else None, call.path))
    made = left(call, call.made(), Tensor(sources, layer, found))
    return leaves(layer, made, given[0] if given else None, call)


@function(*ACTIVATIONS)
def activate(call: Call) -> Value:
    """`tf.nn.softmax(x)`."""
    made = call.made()
    call.engine.places[made.uid] = call.span
    return left(call, made, Tensor(call.arguments, None, Outlet(None, last(call.name), made)))


@function("tensorflow.cast", *everywhere("ops.cast", "backend.cast"))
def cast(call: Call) -> Value:
    """`tf.cast(x, tf.float32)`: the same numbers, but no longer as they left the layer."""
    before = read(call.argument(0), call.path)
    facts = Tensor(call.arguments[:1], None, Outlet(None, before.got, before.shown))
    return write(call.derived(*call.arguments[:1]), facts, call)


@function(
    "tensorflow.identity",
    "tensorflow.squeeze",
    "tensorflow.reshape",
    "tensorflow.convert_to_tensor",
    "tensorflow.ensure_shape",
    *everywhere("ops.squeeze", "ops.reshape", "ops.convert_to_tensor", "backend.squeeze"),
)
def reshaped(call: Call) -> Value:
    """`tf.reshape(x, ...)`: the same numbers in another shape."""
    facts = Tensor(call.arguments[:1], None, read(call.argument(0), call.path))
    return write(call.derived(*call.arguments[:1]), facts, call)

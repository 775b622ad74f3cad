"""What is known of Keras layers and of the tensors that leave them, each as one value on a path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from mpaudit.source.engine.values import NONE, UNKNOWN, Const, Pack, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

SEEN = Const("keras")
"""The "@region" of what Keras computes: known to be no autocast region of torch."""
UNSCALED = Pack(())


class Outlet(Struct, frozen=True):
    """What leaves a layer or model: the layer it left, what it is, and which layer made it that.

    `got` is "logits", "softmax", "log_softmax", "sigmoid", None if it is not known.
    """

    layer: Thing | None = None
    got: str | None = None
    shown: Thing | None = None


class Tensor(Value, frozen=True):
    """Where a tensor comes from: the layer or model that was called (if any), and on what."""

    inputs: tuple[Value, ...] = ()
    by: Thing | None = None
    left: Outlet = Outlet()


class LayerOf(Value, frozen=True):
    """A layer of Keras: its class, its activation as given (NONE: none), the layer it wraps, `name=`."""

    name: str
    activation: Value = NONE
    inner: Value = NONE
    label: str | None = None


OPAQUE = LayerOf("", UNKNOWN)
"""A layer of the project's own class."""


def read(value: Value | None, path: Path) -> Outlet:
    """What is known of a tensor."""
    known = path.known(value, "@tensor") if value is not None else None
    return known.left if isinstance(known, Tensor) else Outlet()


def origin(value: Value, path: Path) -> Tensor | None:
    """Where a tensor comes from, None if that is not known."""
    known = path.known(value, "@tensor")
    return known if isinstance(known, Tensor) else None


def write(tensor: Thing, facts: Tensor, call: Call) -> Thing:
    """Note what a tensor is; it is shown where the layer or operation stands that made it that."""
    shown, places = facts.left.shown, call.engine.places
    if shown is not None and shown.uid in places:
        places[tensor.uid] = places[shown.uid]
    return call.path.learn(tensor, tensor=facts)


def left(call: Call, made: Thing, facts: Tensor) -> Thing:
    """A tensor that Keras computes: not scaled, and by no unknown factor."""
    call.path.heap.forget((made.uid, "@weighted"))
    return write(call.path.learn(made, scaled=UNSCALED, region=SEEN), facts, call)

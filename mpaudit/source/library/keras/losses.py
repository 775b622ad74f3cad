"""Keras losses, and what they are given: objects, functions, names, and TensorFlow's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from mpaudit.event import LossComputed, Ref
from mpaudit.finding import Span
from mpaudit.source.api.keras_names import everywhere, last
from mpaudit.source.engine.registry import base, called, function
from mpaudit.source.engine.values import Const, External, Function, Partial, Thing, Value
from mpaudit.source.library.keras.names import computed, keras, text
from mpaudit.source.library.keras.values import Outlet, read
from mpaudit.source.library.unseen import unseen

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

PROBABILITIES = {
    "CategoricalCrossentropy": "softmax",
    "SparseCategoricalCrossentropy": "softmax",
    "CategoricalFocalCrossentropy": "softmax",
    "BinaryCrossentropy": "sigmoid",
    "BinaryFocalCrossentropy": "sigmoid",
    "categorical_crossentropy": "softmax",
    "sparse_categorical_crossentropy": "softmax",
    "categorical_focal_crossentropy": "softmax",
    "binary_crossentropy": "sigmoid",
    "binary_focal_crossentropy": "sigmoid",
}
"""What the losses of Keras take unless `from_logits` is set."""
FROM_LOGITS_AT = {
    "BinaryCrossentropy": 0,
    "CategoricalCrossentropy": 0,
    "SparseCategoricalCrossentropy": 0,
    "categorical_crossentropy": 2,
    "sparse_categorical_crossentropy": 2,
    "binary_crossentropy": 2,
}
WITH_LOGITS = tuple(
    f"tensorflow.{under}nn.{name}_cross_entropy_with_logits{version}"
    for under in ("", "compat.v1.")
    for name in ("softmax", "sparse_softmax", "sigmoid")
    for version in ("", "_v2")
)


class Loss(Struct, frozen=True):
    """A loss: its name, what it takes (None: not known), where it was built."""

    name: str = ""
    wants: str | None = None
    made: Span | None = None


@keras("losses.*")
def make_loss(call: Call) -> Value | None:
    """`SparseCategoricalCrossentropy(from_logits=True)`, or a loss function that is called."""
    return _loss(call)


@function("tensorflow.losses.*")
def make_loss_of_tensorflow(call: Call) -> Value | None:
    """`tf.losses` is `tf.keras.losses`."""
    return _loss(call)


def _loss(call: Call) -> Value | None:
    name = last(call.name)
    if not name[:1].isupper():
        return apply_function(call)
    made = call.made("KerasLoss")
    call.engine.places[made.uid] = call.span
    return call.path.learn(made, loss=Const(name), from_logits=from_logits(call, name))


def _adopt(call: Call, made: Thing, _: str) -> None:
    """An instance of a project's own loss class."""
    call.engine.places[made.uid] = call.span


base("KerasLoss", *everywhere("losses.Loss", "Loss"), "tensorflow.losses.Loss", adopt=_adopt)


def from_logits(call: Call, name: str) -> Value:
    """The argument `from_logits`, by default False."""
    given = call.argument(FROM_LOGITS_AT.get(name, 99), "from_logits")
    if given is None:
        return Const("?") if "**" in call.keywords else Const(False)
    return given


def takes(name: str, logits: Value | None, path: Path, call: Call) -> str | None:
    """What a loss takes, given the argument `from_logits`."""
    if name not in PROBABILITIES or logits is None or logits == Const("?"):
        return None
    told = call.engine.logic.truth(logits, path)
    return None if told is None else ("logits" if told else PROBABILITIES[name])


def describe(value: Value | None, call: Call, at: Span | None = None) -> Loss:
    """What `compile(loss=value)` asks for; `at` is where a loss stands that is no object."""
    path = call.path
    if isinstance(value, Thing) and value.kind == "KerasLoss":
        kind = text(path.known(value, "@loss")) or ""
        wants = takes(kind, path.known(value, "@from_logits"), path, call)
        return Loss(kind or "the loss", wants, call.engine.places.get(value.uid))
    name = last(value.name) if isinstance(value, External) else text(value)
    if name is not None:
        return Loss(name, PROBABILITIES.get(name), at)
    if isinstance(value, Partial) and isinstance(value.function, External):
        keywords: Mapping[str, Value] = dict(value.keywords)
        kind = last(value.function.name)
        return Loss(kind, takes(kind, keywords.get("from_logits", Const(False)), path, call), at)
    return Loss(value.name if isinstance(value, Function) else "the loss")


def computed_from(call: Call, loss: Loss, given: Outlet, prediction: Value | None = None) -> None:
    """Tell the protocols that a loss is computed from what left a model."""
    shown = call.engine.places.get(given.shown.uid) if given.shown is not None else None
    call.emit(
        LossComputed(
            at=call.span,
            occasional=call.occasional,
            loss=loss.name,
            wants=loss.wants,
            got=given.got,
            shown=shown,
            made=loss.made,
            output=None if given.layer is None else Ref(given.layer.uid, ""),
            unseen=unseen(prediction, call.engine, call.path),
        )
    )


@called("KerasLoss")
def apply_loss(call: Call) -> Value:
    """`loss_fn(y_true, y_pred)`."""
    prediction = call.picked(1, "y_pred")
    computed_from(call, describe(call.thing, call), read(prediction, call.path), prediction)
    return computed(call, *call.arguments, *call.keywords.values())


@keras("backend.categorical_crossentropy", "backend.sparse_categorical_crossentropy")
def apply_backend(call: Call) -> Value:
    """`keras.backend.categorical_crossentropy(target, output, from_logits=False)`."""
    return apply_function(call)


@keras("backend.binary_crossentropy", "ops.categorical_crossentropy", "ops.binary_crossentropy")
def apply_more(call: Call) -> Value:
    """`keras.ops.binary_crossentropy(target, output, from_logits=False)`."""
    return apply_function(call)


def apply_function(call: Call) -> Value:
    """`sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)`."""
    name = last(call.name)
    prediction = call.picked(1, "y_pred") or call.keywords.get("output")
    wants = takes(name, from_logits(call, name), call.path, call)
    computed_from(call, Loss(name, wants, call.span), read(prediction, call.path), prediction)
    return computed(call, *call.arguments, *call.keywords.values())


@function(*WITH_LOGITS)
def apply_with_logits(call: Call) -> Value:
    """`tf.nn.softmax_cross_entropy_with_logits(labels=y, logits=x)`."""
    given, name = call.picked(1, "logits"), last(call.name).removesuffix("_v2")
    computed_from(call, Loss(name, "logits", call.span), read(given, call.path), given)
    return computed(call, *call.arguments, *call.keywords.values())

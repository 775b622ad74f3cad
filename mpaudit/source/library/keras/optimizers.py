"""Keras optimizers: how they are made, and which one a model has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.source.api.keras_names import everywhere, last
from mpaudit.source.engine.registry import attributes, base, function, kind_of
from mpaudit.source.engine.values import FALSE, NONE, TRUE, UNKNOWN, Class, Const, Thing, Value
from mpaudit.source.library.keras.names import keras
from mpaudit.source.library.keras.policy import IN_FORCE
from mpaudit.source.library.keras.scaling import born, make_scaling
from mpaudit.source.library.python.number import number
from mpaudit.source.trait.keras_version import generation

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

NO_OPTIMIZERS = (".schedules.", ".legacy.schedules.")


@keras("optimizers.*")
def make_optimizer(call: Call) -> Value | None:
    """`keras.optimizers.Adam(...)`."""
    return _make(call)


@function("tensorflow.optimizers.*", "tensorflow_addons.optimizers.*")
def make_optimizer_of_tensorflow(call: Call) -> Value | None:
    """`tf.optimizers` is `tf.keras.optimizers`."""
    return _make(call)


def _make(call: Call) -> Value | None:
    name = last(call.name)
    if any(part in call.name for part in NO_OPTIMIZERS):
        return None
    if name == "LossScaleOptimizer":
        return make_scaling(call)
    if not (name[:1].isupper() or name == "get"):
        return None
    made = born(call, call.made("KerasOptimizer"))
    given = call.argument(0, "identifier")
    if name == "get" and isinstance(given, Thing):
        return given
    given = call.keywords.get("loss_scale_factor", NONE)
    factor, scales = number(given, call.engine.identities), UNKNOWN
    if given == NONE:
        scales = FALSE
    elif factor is not None:
        scales = TRUE
        call.path.learn(made, factor=Const(factor))
    call.engine.places[made.uid] = call.span
    return call.path.learn(made, scales=UNKNOWN if "**" in call.keywords else scales)


@function(
    "tensorflow.train.experimental.enable_mixed_precision_graph_rewrite",
    "tensorflow.compat.v1.train.experimental.enable_mixed_precision_graph_rewrite",
    "tensorflow.compat.v1.mixed_precision.enable_mixed_precision_graph_rewrite",
)
def rewrite_graph(call: Call) -> Value:
    """The graph rewrite of TensorFlow 1 scales the loss by itself."""
    return call.path.learn(call.made("KerasOptimizer"), scales=UNKNOWN)


@function(
    "horovod.tensorflow.DistributedOptimizer", "horovod.tensorflow.keras.DistributedOptimizer"
)
def distribute(call: Call) -> Value | None:
    """Horovod's wrapper stands for the optimizer."""
    return call.argument(0, "optimizer")


def _adopt(call: Call, made: Thing, _: str) -> None:
    """An instance of a project's own optimizer class: who knows what it does."""
    call.path.learn(born(call, made), scales=UNKNOWN)


base("KerasOptimizer", *everywhere("optimizers.Optimizer", "Optimizer"), adopt=_adopt)


@attributes("optimizer")
def optimizer_of_model(engine: Calls, thing: Thing, path: Path) -> Value | None:
    """`model.optimizer`: what `compile` made of what it was given, or will have made of it."""
    if thing.kind != "KerasModel":
        return None
    known = path.known(thing, "@optimizer")
    if known is not None:
        return known
    made = Thing(engine.identities.number("optimizer of", thing), "KerasOptimizer")
    return path.learn(made, scales=wrapped(thing, path), keras=keras_of(thing, path))


def keras_of(model: Thing, path: Path) -> Value | None:
    """2 or 3 for the Keras that a model is of; None if that is not known."""
    owner = path.known(model, "@class")
    if isinstance(owner, Class):
        found = generation(kind_of(owner)[1] or "", owner.module)
        return None if found is None else Const(found)
    return path.known(model, "@keras")


def wrapped(model: Thing, path: Path) -> Value:
    """Whether `compile` wraps the optimizer of a model: it does where the policy is mixed_float16."""
    policy = path.known(model, "@policy") or path.heap.get(IN_FORCE)
    if policy is None or policy == UNKNOWN:
        return UNKNOWN
    return TRUE if policy == Const("mixed_float16") else FALSE

"""Keras optimizers: plain ones, loss-scaling ones, and what becomes of gradients in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import GradientsApplied, Ref
from mpaudit.source.library.keras_names import LEGACY, everywhere, keras, last
from mpaudit.source.library.keras_policy import IN_FORCE
from mpaudit.source.library.registry import attributes, base, function, kind_of, method
from mpaudit.source.values import FALSE, NONE, TRUE, UNKNOWN, Class, Const, Pack, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.call import Calls
    from mpaudit.source.path import Path
    from mpaudit.source.request import Call

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
    made = call.made("KerasOptimizer")
    given = call.argument(0, "identifier")
    if name == "get" and isinstance(given, Thing):
        return given
    factor = call.keywords.get("loss_scale_factor", NONE)
    if isinstance(factor, Const):
        scales: Value = FALSE if factor == NONE else TRUE
    else:
        scales = UNKNOWN
    call.engine.places[made.uid] = call.span
    return call.path.learn(made, scales=UNKNOWN if "**" in call.keywords else scales)


@keras("mixed_precision.LossScaleOptimizer", "mixed_precision.experimental.LossScaleOptimizer")
def make_scaling(call: Call) -> Value:
    """`LossScaleOptimizer(optimizer)`; that of Keras 2 leaves the work to the loop."""
    made = call.made("KerasOptimizer")
    call.engine.places[made.uid] = call.span
    second = call.name.startswith(LEGACY) or ".experimental." in call.name
    return call.path.learn(made, scales=UNKNOWN if second else TRUE)


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
    call.path.learn(made, scales=UNKNOWN)


base("KerasOptimizer", *everywhere("optimizers.Optimizer", "Optimizer"), adopt=_adopt)


def scales(optimizer: Thing, call: Call) -> bool | None:
    """Whether an optimizer divides gradients by a loss scale, None if that is not known."""
    known = call.engine.logic.settled(call.path.known(optimizer, "@scales"), call.path)
    return bool(known.value) if known in (TRUE, FALSE) and isinstance(known, Const) else None


@attributes("optimizer")
def optimizer_of_model(engine: Calls, thing: Thing, path: Path) -> Value | None:
    """`model.optimizer`: what `compile` made of what it was given, or will have made of it."""
    if thing.kind != "KerasModel":
        return None
    known = path.known(thing, "@optimizer")
    if known is not None:
        return known
    made = Thing(engine.identities.number("optimizer of", thing), "KerasOptimizer")
    return path.learn(made, scales=wrapped(thing, path))


def wrapped(model: Thing, path: Path) -> Value:
    """Whether `compile` wraps the optimizer of a model: it does where the policy is mixed_float16."""
    owner = path.known(model, "@class")
    origin = kind_of(owner)[1] if isinstance(owner, Class) else None
    if path.known(model, "@legacy") is not None or (origin or "").startswith(LEGACY):
        return UNKNOWN
    policy = path.known(model, "@policy") or path.heap.get(IN_FORCE)
    if policy is None or policy == UNKNOWN:
        return UNKNOWN
    return TRUE if policy == Const("mixed_float16") else FALSE


@method("KerasOptimizer", "scale_loss")
def scale_loss(call: Call) -> Value:
    """`optimizer.scale_loss(loss)`: the loss itself where the optimizer does not scale."""
    loss: Value = call.picked(0, "loss") or NONE
    known = scales(call.thing, call)
    if known is False:
        return loss
    before = call.path.known(loss, "@scaled")
    made = call.derived(loss)
    if known is None or not isinstance(before, Pack):
        return call.path.learn(made, scaled=UNKNOWN)
    return call.path.learn(made, scaled=Pack((*before.items, call.thing)))


@method("", "scale_loss", "get_scaled_loss")
def scale_loss_somehow(call: Call) -> Value:
    """An optimizer nothing is known of, or a method of Keras 2."""
    return call.path.learn(call.derived(*call.arguments), scaled=UNKNOWN)


@method("KerasOptimizer", "get_scaled_loss")
def scale_loss_of_keras2(call: Call) -> Value:
    """`optimizer.get_scaled_loss(loss)`: Keras 2, whose loops are another matter."""
    return scale_loss_somehow(call)


@method("KerasOptimizer", "get_unscaled_gradients")
def unscale_of_keras2(call: Call) -> Value:
    """`optimizer.get_unscaled_gradients(gradients)`: Keras 2."""
    return call.path.learn(call.derived(*call.arguments), tape=UNKNOWN)


@method("KerasOptimizer", "apply_gradients", "apply")
def apply_gradients(call: Call) -> Value:
    """`optimizer.apply_gradients(zip(gradients, variables))`, `optimizer.apply(gradients, variables)`."""
    given = call.picked(0, "grads_and_vars") or call.keywords.get("grads") or NONE
    tape = call.path.known(given, "@tape")
    made = call.path.known(call.thing, "@wraps") or call.thing
    call.emit(
        GradientsApplied(
            at=call.span,
            occasional=call.occasional,
            optimizer=call.ref(call.thing),
            scales=scales(call.thing, call),
            gradients=Ref(tape.uid, "") if isinstance(tape, Thing) else None,
            made=call.engine.places.get(made.uid) if isinstance(made, Thing) else None,
        )
    )
    return NONE

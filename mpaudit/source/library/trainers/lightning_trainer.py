"""Lightning's Trainer: what it is told, and the hooks that `fit` calls, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import GradientRead, OwnedBackward, OwnedStep, OwnedUnscaled
from mpaudit.source.engine.facts import parts
from mpaudit.source.engine.registry import function, method
from mpaudit.source.engine.values import UNKNOWN, Const, Pack, Thing, Value
from mpaudit.source.library.torch.device import decided
from mpaudit.source.library.trainers.lightning_hook import follow, hooks, step, tell
from mpaudit.source.library.trainers.lightning_module import is_manual, scaled
from mpaudit.source.library.trainers.lightning_names import (
    PRECISIONS,
    because,
    is_module,
    learn_precision,
    option,
)
from mpaudit.source.library.trainers.lightning_refusal import (
    needless_scaler,
    refused,
    remember,
    twice_chosen,
)
from mpaudit.source.library.trainers.lightning_region import device

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

SETUP, TRAINING, BACKWARD, AFTER, UNSCALED, BEFORE, CLIP, STEPPED, END, VALIDATION = range(
    100, 200, 10
)
"""The parts of `fit`, in order; each may call a hook of the model and of several callbacks."""
DEFAULT = PRECISIONS["32-true"]


@function("lightning.*", "pytorch_lightning.*")
def make(call: Call) -> Value | None:
    """`Trainer(...)`, a strategy, a precision plugin, `grad_norm(module, 2)`."""
    last = call.name.rpartition(".")[2]
    if last == "Trainer":
        made = learn_precision(call, call.made("LightningTrainer"), DEFAULT)
        remember(call, made)
        twice_chosen(call)
        callbacks = Pack(tuple(parts(option(call, "callbacks"), call.path)))
        return call.path.learn(made, callbacks=callbacks, runs_on=device(call))
    if last.endswith("Strategy"):
        return call.path.learn(call.made("library"), strategy=Const(last))
    if ".plugins" in call.name and "Precision" in last:
        return precision_plugin(call, last)
    if last == "grad_norm":
        return norm_read(call)
    return None


def precision_plugin(call: Call, name: str) -> Thing:
    """`MixedPrecision("16-mixed", device="cuda")`: it decides in place of `precision=`."""
    given = call.argument(0, "precision")
    known: Value = UNKNOWN
    if name in ("MixedPrecision", "FSDPPrecision") and given is not None:
        known = decided(given, _named)
        needless_scaler(call, given)
    return call.path.learn(call.made("library"), precision=known)


def _named(value: Value) -> Value:
    return PRECISIONS.get(str(value.value), UNKNOWN) if isinstance(value, Const) else UNKNOWN


def norm_read(call: Call) -> Value:
    """`lightning.pytorch.utilities.grad_norm(module, norm_type)` reads every gradient."""
    call.emit(
        GradientRead(at=call.span, occasional=call.occasional, how="grad_norm", places=call.places)
    )
    return call.made()


@method("LightningTrainer", "fit")
def fit(call: Call) -> Value | None:
    """`trainer.fit(model)`: one step of the training, hook by hook."""
    model, trainer = _module(call), call.thing
    if model is None:
        return None
    configured, manual = follow(call, SETUP, model, "configure_optimizers"), is_manual(call, model)
    refused(call, model, manual, configured)
    step(call, TRAINING, model, "training_step")
    if manual is False:
        _optimise(call, model, trainer)
    hooks(call, END, model, "on_train_batch_end")
    step(call, VALIDATION, model, "validation_step")
    return call.made()


@method("LightningTrainer", "validate", "test", "predict")
def evaluate(call: Call) -> Value | None:
    """`trainer.test(model)`: one step of it, in the precision of the training."""
    model = _module(call)
    if model is None:
        return None
    step(call, TRAINING, model, _STEPS[call.name])
    return call.made()


_STEPS = {"validate": "validation_step", "test": "test_step", "predict": "predict_step"}


def _module(call: Call) -> Thing | None:
    """The module that a Trainer is given, with what it is to run with."""
    model, trainer, path = call.picked(0, "model"), call.thing, call.path
    if not isinstance(model, Thing) or not is_module(model, path):
        return None
    known = path.known(trainer, "@precision")
    known = call.engine.logic.pick(known, path) if known is not None else UNKNOWN
    callbacks = path.known(trainer, "@callbacks")
    return path.learn(model, trainer=trainer, precision=known, callbacks=callbacks)


def _optimise(call: Call, model: Thing, trainer: Thing) -> None:
    """What Lightning does with the loss that `training_step` returns."""
    owner, at = call.ref(model, call.argument_node(0, "model")), call.span
    why = because(call.engine, trainer)
    optimizer = call.engine.term("optimizer", model)
    tell(
        call,
        BACKWARD,
        OwnedBackward(at=at, owner=owner, scaled=scaled(call, model), because=why),
    )
    hooks(call, AFTER, model, "on_after_backward")
    tell(call, UNSCALED, OwnedUnscaled(at=at, owner=owner))
    hooks(call, BEFORE, model, "on_before_optimizer_step", optimizer)
    follow(call, CLIP, model, "configure_gradient_clipping", optimizer)
    tell(
        call,
        STEPPED,
        OwnedStep(
            at=at,
            owner=owner,
            optimizer=call.ref(optimizer),
            library="Lightning",
            required=False,
            because=why,
        ),
    )

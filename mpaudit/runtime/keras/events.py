"""What a Keras script does with mixed precision, as the events that the protocols know."""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf

from mpaudit.event import (
    Event,
    GradientsApplied,
    LayerMade,
    LossComputed,
    LossScaled,
    ModelMade,
    PolicySet,
    Ref,
    TapeGradient,
)
from mpaudit.finding import Moment, Span
from mpaudit.runtime.frame import spelling, user_frame
from mpaudit.runtime.keras.identity import ByObject
from mpaudit.runtime.keras.layers import Layers, recording
from mpaudit.runtime.keras.nature import MARK, Mark
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.place import constructor, place
from mpaudit.runtime.keras.register import Register
from mpaudit.runtime.keras.steps import Steps, scales

_SCALED = "_mpaudit_scaled_by"
_UNSCALED = "_mpaudit_unscaled"
_GRADIENTS = "_mpaudit_gradients"
_TWICE = 2
_PROBABILITIES = {
    "categorical_crossentropy": "softmax",
    "categorical_focal_crossentropy": "softmax",
    "sparse_categorical_crossentropy": "softmax",
    "binary_crossentropy": "sigmoid",
    "binary_focal_crossentropy": "sigmoid",
}
"""What the losses of Keras take unless `from_logits` is set."""


class Events:
    """Watches policies, layers, losses, tapes and optimizers, and feeds the protocols.

    A layer is announced when the next thing happens: only then has its constructor run to the end.
    The events of an iteration that came twice already, in the same order, are not told again.
    """

    def __init__(self, patches: Patches, layers: Layers, register: Register, steps: Steps) -> None:
        self._patches = patches
        self._tracer = patches.tracer
        self._layers = layers
        self._register = register
        self._steps = steps
        self._made: list[tuple[weakref.ref[Any], Span, str | None]] = []
        self._models = ByObject[tuple[Span, int]]()
        self._owners = ByObject[Ref]()
        self._owning = ByObject[bool]()
        self._losses = ByObject[Span | None]()
        self._optimizers = ByObject[int]()
        self._built = ByObject[Span | None]()
        self._serial = 0
        self._iteration: list[Event] = []
        self._seen: Counter[tuple[Event, ...]] = Counter()
        self._scaling_seen = False
        self._attempts = 0

    def install(self) -> None:
        """Watch from now on."""
        wrap = self._patches.wrap
        wrap(keras.src.backend.common.global_state, "set_global_attribute", self._around_setting)
        wrap(keras.layers.Layer, "__new__", self._around_layer)
        wrap(keras.losses.Loss, "__init__", self._around_loss_made)
        wrap(keras.losses.Loss, "__call__", self._around_loss)
        wrap(keras.optimizers.Optimizer, "__init__", self._around_optimizer_made)
        wrap(keras.optimizers.LossScaleOptimizer, "__init__", self._around_scaling_made)
        wrap(keras.optimizers.Optimizer, "scale_loss", self._around_scale)
        wrap(keras.optimizers.LossScaleOptimizer, "scale_loss", self._around_scale)
        wrap(tf.GradientTape, "gradient", self._around_gradient)

    def drain(self) -> None:
        """Feed what waits for the end of its iteration."""
        self._announce()
        self._feed_iteration()

    # Policies, layers and models

    def _around_setting(self, original: Call) -> Call:
        def set_attribute(name: str, value: Any) -> None:
            original(name, value)
            if name != "dtype_policy" or not _by_the_script():
                return
            with self._patches.guarded("policy"):
                policy = str(value.name)
                at = place("set_global_policy", "set_dtype_policy", "set_policy")
                if at is not None:
                    self._tell(PolicySet(at=at, policy=policy, moment=self._moment()))
                    if policy.startswith("mixed"):
                        self._tracer.asked_for_amp(at, f"the global policy {policy!r}")

        return set_attribute

    def _around_layer(self, original: Call) -> Call:
        def new(kind: Any, *args: Any, **kwargs: Any) -> Any:
            layer = original(kind, *args, **kwargs)
            with self._patches.guarded("layer made"):
                at = None if _internal(kind) else place(kind.__name__)
                if at is not None:
                    self._register.made.put(layer, at)
                    inherits = None if kwargs.get("dtype") is not None else _global_policy()
                    self._made.append((weakref.ref(layer), at, inherits))
            return layer

        return new

    def _announce(self) -> None:
        """Tell of the layers and models that were made since the last time."""
        made, self._made = self._made, []
        for owner, at, inherits in made:
            layer = owner()
            if layer is None or not hasattr(layer, "_dtype_policy"):
                continue  # it is no more, or its constructor failed
            if isinstance(layer, keras.Model):
                self._announce_model(layer, at)
                continue
            own = str(layer.dtype_policy.name)
            activation = getattr(getattr(layer, "activation", None), "__name__", None)
            if isinstance(layer, keras.layers.Softmax):
                activation = "softmax"
            self._tell(
                LayerMade(
                    at=at,
                    layer=self._register.watched(layer).ref,
                    kind=type(layer).__name__,
                    policy=None if own == inherits else own,
                    activation=None if activation == "linear" else activation,
                    moment=self._moment(),
                )
            )

    def _announce_model(self, model: Any, at: Span, output: tuple[Ref, ...] = ()) -> None:
        """Tell of a model as far as it is complete; it is told again when it has grown."""
        layers = [each for each in model.layers if not isinstance(each, keras.layers.InputLayer)]
        _, told = self._models.get(model) or (at, 0)
        self._models.put(model, (at, len(layers)))
        if len(layers) == told:
            return
        refs = tuple(self._register.watched(each).ref for each in layers)
        if isinstance(model, keras.Sequential):
            output = refs[-1:]
        elif isinstance(model, keras.src.models.functional.Functional):
            made_by = [each._keras_history.operation for each in keras.tree.flatten(model.outputs)]
            output = tuple(self._register.watched(each).ref for each in made_by)
        ref = self._register.watched(model).ref
        self._tell(ModelMade(at=at, model=ref, layers=refs, output=output, moment=self._moment()))

    def called(self, layer: Any, outputs: Any) -> None:
        """A layer was called for real: a model is complete by then."""
        if not isinstance(layer, keras.Model):
            return
        self._announce()
        if (told := self._models.get(layer)) is not None:
            marks = [getattr(each, MARK, None) for each in keras.tree.flatten(outputs)]
            output = tuple(mark.layer for mark in marks if mark is not None)
            self._announce_model(layer, told[0], output)
        if self._owning.get(layer) is None and layer.trainable_variables:
            self._owning.put(layer, True)
            for variable in layer.trainable_variables:
                self._owners.put(variable, self._register.watched(layer).ref)

    # Losses, tapes and optimizers

    def _around_loss_made(self, original: Call) -> Call:
        def init(loss: Any, *args: Any, **kwargs: Any) -> None:
            original(loss, *args, **kwargs)
            with self._patches.guarded("loss made"):
                at = place(type(loss).__name__, frame=constructor(loss))
                self._losses.put(loss, at)

        return init

    def _around_loss(self, original: Call) -> Call:
        def call(loss: Any, y_true: Any, y_pred: Any, *args: Any, **kwargs: Any) -> Any:
            with self._patches.guarded("loss"):
                mark = getattr(y_pred, MARK, None)
                if isinstance(mark, Mark) and recording():
                    self._loss_computed(loss, mark)
            return original(loss, y_true, y_pred, *args, **kwargs)

        return call

    def _loss_computed(self, loss: Any, mark: Mark) -> None:
        function = getattr(getattr(loss, "fn", None), "__name__", "")
        wants = _PROBABILITIES.get(function)
        at = place()
        if at is None or wants is None:
            return
        from_logits = loss._fn_kwargs.get("from_logits", False)
        by_name = type(loss) is keras.src.losses.losses.LossFunctionWrapper
        self._tell(
            LossComputed(
                at=at,
                loss=function if by_name else type(loss).__name__,
                wants="logits" if from_logits else wants,
                got=mark.got,
                shown=mark.shown,
                made=self._losses.get(loss),
                output=mark.layer,
                moment=self._moment(),
            )
        )

    def _around_optimizer_made(self, original: Call) -> Call:
        def init(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            with self._patches.guarded("optimizer made"):
                self._built.put(optimizer, place(frame=constructor(optimizer)))

        return init

    def _around_scaling_made(self, original: Call) -> Call:
        def init(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            with self._patches.guarded("loss scale optimizer made"):
                start, interval = optimizer.initial_scale, optimizer.dynamic_growth_steps
                given = {"init_scale": float(start), "growth_interval": int(interval)}
                self._tracer.note("scaler", given)

        return init

    def _around_scale(self, original: Call) -> Call:
        def scale_loss(optimizer: Any, loss: Any) -> Any:
            result = original(optimizer, loss)
            with self._patches.guarded("scale_loss"):
                at = place("scale_loss")
                if scales(optimizer) and at is not None:
                    self._scaling_seen = True
                    _set(result, _UNSCALED, loss)
                    ref = self._optimizer(optimizer)
                    _set(result, _SCALED, (*getattr(loss, _SCALED, ()), ref))
                    moment = self._moment()
                    before, after = Ref(("loss", at), "loss"), Ref(("scaled", at), "scaled loss")
                    self._tell(
                        LossScaled(at=at, scaler=ref, loss=before, result=after, moment=moment)
                    )
            return result

        return scale_loss

    def _around_gradient(self, original: Call) -> Call:
        def gradient(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(tape, target, sources, *args, **kwargs)
            with self._patches.guarded("tape.gradient"):
                self._steps.taken(getattr(target, _UNSCALED, target))
                at = place("gradient")
                if at is not None:
                    self._taken(at, target, sources, result)
            return result

        return gradient

    def _taken(self, at: Span, target: Any, sources: Any, result: Any) -> None:
        gradients = Ref(("gradients", at), "gradients")
        for each in tf.nest.flatten(result):
            _set(each, _GRADIENTS, gradients)
        marks = {ref for each in tf.nest.flatten(target) for ref in getattr(each, _SCALED, ())}
        owners = [self._owners.get(each) for each in tf.nest.flatten(sources)]
        models = list(dict.fromkeys(ref for ref in owners if ref is not None))
        known = marks or not self._scaling_seen
        self._tell(
            TapeGradient(
                at=at,
                loss=Ref(("loss", at), spelling(target, user_frame())),
                gradients=gradients,
                model=models[0] if models else None,
                others=tuple(models[1:]),
                scaled_by=tuple(marks) if known else None,
                moment=self._moment(),
            )
        )

    def applied(self, optimizer: Any, grads: Sequence[Any], variables: Sequence[Any]) -> None:
        """Gradients go to an optimizer: the end of an iteration."""
        for gradient, variable in zip(grads, variables, strict=False):
            if gradient is not None:
                self._layers.gradient_of(variable, gradient, measured=scales(optimizer))
        at = place("apply_gradients", "apply")
        if at is None:
            return
        refs = {getattr(each, _GRADIENTS, None) for each in grads if each is not None}
        self._tell(
            GradientsApplied(
                at=at,
                optimizer=self._optimizer(optimizer),
                scales=scales(optimizer),
                gradients=next(iter(refs)) if len(refs) == 1 else None,
                made=self._built.get(optimizer),
                moment=self._moment(),
            )
        )
        self._attempts += 1
        self._feed_iteration()

    def _optimizer(self, optimizer: Any) -> Ref:
        number = self._optimizers.get(optimizer)
        if number is None:
            self._serial += 1
            number = self._optimizers.put(optimizer, self._serial)
        return Ref(("optimizer", number), spelling(optimizer, user_frame()))

    # Feeding

    def _moment(self) -> Moment:
        return Moment(step=self._attempts)

    def _tell(self, event: Event) -> None:
        if not isinstance(event, LayerMade | ModelMade):
            self._announce()
        if isinstance(event, LayerMade | ModelMade | PolicySet):
            self._feed_iteration()
            self._tracer.feed(event)
        else:
            self._iteration.append(event)

    def _feed_iteration(self) -> None:
        events, self._iteration = self._iteration, []
        shape = tuple(replace(each, moment=None) for each in events)
        self._seen[shape] += 1
        if self._seen[shape] <= _TWICE:
            for event in events:
                self._tracer.feed(event)


def _internal(kind: Any) -> bool:
    """Whether a layer that is being made is not the user's: an input, a Sequential's inside."""
    if issubclass(kind, keras.layers.InputLayer):
        return True
    frame = sys._getframe(1) if issubclass(kind, keras.src.models.functional.Functional) else None
    while frame is not None:
        if frame.f_code is keras.Sequential.build.__code__:
            return True
        frame = frame.f_back
    return False


def _global_policy() -> str:
    """The name of the policy in force; asking Keras itself would set one."""
    state = keras.src.backend.common.global_state
    policy = state.get_global_attribute("dtype_policy")
    return str(keras.backend.floatx() if policy is None else policy.name)


def _by_the_script() -> bool:
    """Whether the policy is being set by a call to `set_dtype_policy`, not as a default."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "set_dtype_policy":
        frame = frame.f_back  # type: ignore[assignment]
    above = None if frame is None else frame.f_back
    return above is not None and above.f_code.co_name != "dtype_policy"


def _set(value: Any, name: str, fact: Any) -> None:
    """Attach a fact to a tensor; what takes no attributes goes without."""
    if isinstance(value, tf.Tensor | tf.IndexedSlices):
        setattr(value, name, fact)

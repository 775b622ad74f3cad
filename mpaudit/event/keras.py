"""Keras: policies, layers, models, tapes and what is applied."""

from __future__ import annotations

from collections.abc import Hashable

from mpaudit.event.core import Event, Ref
from mpaudit.finding import Span


class PolicySet(Event, frozen=True, kw_only=True):
    """The global Keras dtype policy became `policy` ("mixed_float16"), None if not known.

    `floatx` says that it did so by way of `set_floatx`, which layers go by as long as no policy is set;
    `chosen` that the call stands under a condition, or its argument rests on one.
    """

    policy: str | None
    floatx: bool = False
    chosen: bool = False


class PolicyMade(Event, frozen=True, kw_only=True):
    """A policy object was built, and the program never reads what holds it but to print it."""

    policy: str


class PolicyRefused(Event, frozen=True, kw_only=True):
    """Keras was given a name that is no policy's; it raises. `given` is that name."""

    given: str


class LayerMade(Event, frozen=True, kw_only=True):
    """A Keras layer was built.

    `policy` is its own `dtype=` argument: None for the global policy, "?" if it is not known.
    """

    layer: Ref
    kind: str
    policy: str | None
    activation: str | None


class ModelMade(Event, frozen=True, kw_only=True):
    """A Keras model was built from `layers` in order; `output` are those whose results leave it.

    The event of a model that is told again replaces the earlier one. No layers: nothing can be seen
    of the inside (a model loaded from a file). `policy` is the global one when the model was built,
    None if it is not known: by it `compile` decides whether to add loss scaling.
    """

    model: Ref
    layers: tuple[Ref, ...]
    output: tuple[Ref, ...]
    policy: str | None = None


class TapeGradient(Event, frozen=True, kw_only=True):
    """`tape.gradient(loss, variables)`; `scaled_by` are the optimizers whose scale_loss it went
    through, None if that is not known. `model` is the one whose variables are the target, `others`
    are further ones. Keras' own training step stands at the same place as its `GradientsApplied`.
    """

    loss: Ref
    gradients: Ref
    model: Ref | None
    scaled_by: tuple[Ref, ...] | None
    others: tuple[Ref, ...] = ()


class GradientsApplied(Event, frozen=True, kw_only=True):
    """`optimizer.apply_gradients(...)` or `apply`; `scales` says whether the optimizer is a
    LossScaleOptimizer (None: not known), `gradients` what it was given, `made` where the optimizer
    was built. `keras` is 2 or 3, None if that is not known: only Keras 3 unscales here. `factor` is the
    fixed scale of a plain optimizer that scales.
    """

    optimizer: Ref
    scales: bool | None
    gradients: Ref | None
    made: Span | None = None
    keras: int | None = 3
    factor: float | None = None


class StrategyMade(Event, frozen=True, kw_only=True):
    """A strategy of TensorFlow's for several devices was built: "TPUStrategy"."""

    kind: str


class ModelSaved(Event, frozen=True, kw_only=True):
    """A Keras model was saved whole; `path` says where, `policy` is that of the model."""

    path: Hashable
    policy: str | None


class ModelLoaded(Event, frozen=True, kw_only=True):
    """A Keras model was loaded from a file, with the policies that its layers were saved with."""

    path: Hashable

"""What happens to mixed precision in a training loop, in order: the vocabulary of both witnesses.

The static half produces these events by executing the source abstractly, path by path; the runtime half
by watching the real run. `mpaudit.protocols` consumes them and cannot tell the two apart.

An event holds no syntax node, tensor or hook: objects are `Ref`s, places are `Span`s. Three-valued
facts are `bool | None`, None meaning "not known"; a protocol never reports on what is not known.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from mpaudit.finding import Moment, Span


@dataclass(frozen=True, slots=True)
class Ref:
    """An object of the training: equal keys are the same object; `text` is how the user spells it."""

    key: Hashable
    text: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True, slots=True)
class Region:
    """An autocast region that is entered: device type, dtype name and switch as far as known."""

    span: Span
    device: str | None
    dtype: str | None
    enabled: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened at a place.

    `occasional` says that it stands under a condition that changes from iteration to iteration (the
    guard of a gradient accumulation). `moment` is set by a run.
    """

    at: Span
    occasional: bool = False
    moment: Moment | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerMade(Event):
    """A live GradScaler was built (one that is switched off yields no events at all)."""

    scaler: Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class LossScaled(Event):
    """`scaler.scale(loss)`; `loss` is the argument, `result` what came back."""

    scaler: Ref
    loss: Ref
    result: Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class Backward(Event):
    """`loss.backward()`.

    `scalers` are the scalers that the loss had been multiplied by, None if that is not known.
    `made_in` is the innermost enabled low-precision region the loss was computed in, `inside` the
    enabled autocast region that the call itself stands in.
    """

    loss: Ref
    scalers: tuple[Ref, ...] | None
    made_in: Region | None = None
    inside: Region | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unscaled(Event):
    """`scaler.unscale_(optimizer)`; `by_hand` for gradients divided by `get_scale()`."""

    scaler: Ref
    optimizer: Ref | None
    by_hand: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientsClipped(Event):
    """Gradients were clipped or edited; `optimizers` own them as far as known (None: not known)."""

    how: str
    optimizers: tuple[Ref, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerStep(Event):
    """`scaler.step(optimizer)`; `wraps` are the optimizers that this one holds and steps itself."""

    scaler: Ref
    optimizer: Ref
    wraps: tuple[Ref, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerStep(Event):
    """`optimizer.step()`, called by the script itself."""

    optimizer: Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerUpdate(Event):
    """`scaler.update()`; `to_given_scale` for `update(new_scale)`, which needs no step."""

    scaler: Ref
    to_given_scale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientsZeroed(Event):
    """`optimizer.zero_grad()` (or a model's: then `optimizer` is None)."""

    optimizer: Ref | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LostSight(Event):
    """Objects went where they cannot be followed: what is known of them no longer holds."""

    objects: frozenset[Hashable]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward(Event):
    """A model was called. `model_device` is the device type of its parameters, as far as known."""

    model: Ref
    model_made: Span | None
    model_device: str | None
    region: Region | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LossComputed(Event):
    """A loss function was applied.

    `wants` is what the loss takes, `got` what the prediction is: "logits", "softmax", "log_softmax",
    "sigmoid" or None (not known). `shown` is where the prediction's last activation stands, `made`
    where the loss was built, `output` the Keras layer that the prediction left, as it left it.
    """

    loss: str
    wants: str | None
    got: str | None
    shown: Span | None = None
    made: Span | None = None
    output: Ref | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySet(Event):
    """The global Keras dtype policy became `policy` ("mixed_float16"), None if not known."""

    policy: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerMade(Event):
    """A Keras layer was built.

    `policy` is its own `dtype=` argument: None for the global policy, "?" if it is not known.
    """

    layer: Ref
    kind: str
    policy: str | None
    activation: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMade(Event):
    """A Keras model was built from `layers` in order; `output` are those whose results leave it.

    The event of a model that is told again replaces the earlier one. No layers: nothing can be seen
    of the inside (a model loaded from a file).
    """

    model: Ref
    layers: tuple[Ref, ...]
    output: tuple[Ref, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TapeGradient(Event):
    """`tape.gradient(loss, variables)`; `scaled_by` are the optimizers whose scale_loss it went
    through, None if that is not known. `model` is the one whose variables are the target, `others`
    are further ones. Keras' own training step stands at the same place as its `GradientsApplied`.
    """

    loss: Ref
    gradients: Ref
    model: Ref | None
    scaled_by: tuple[Ref, ...] | None
    others: tuple[Ref, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientsApplied(Event):
    """`optimizer.apply_gradients(...)` or `apply`; `scales` says whether the optimizer is a
    LossScaleOptimizer (None: not known), `gradients` what it was given, `made` where the optimizer
    was built.
    """

    optimizer: Ref
    scales: bool | None
    gradients: Ref | None
    made: Span | None = None

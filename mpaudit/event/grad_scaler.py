"""Loss scaling in PyTorch: the scaler, the gradients, the optimizer."""

from __future__ import annotations

from dataclasses import dataclass

from mpaudit.event.core import Event, Ref, Region


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

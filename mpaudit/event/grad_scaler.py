"""Loss scaling in PyTorch: the scaler, the gradients, the optimizer."""

from __future__ import annotations

from collections.abc import Hashable

from mpaudit.event.core import Event, Ref, Region
from mpaudit.finding import Span


class ScalerMade(Event, frozen=True, kw_only=True):
    """A live GradScaler was built (one that is switched off yields no events at all).

    `way` stands for the calls that led there (a run tells it), `for_bfloat16` is where its own switch says
    that it is to be on for bfloat16.
    """

    scaler: Ref
    way: Hashable = None
    for_bfloat16: Span | None = None


class ScalerLoaded(Event, frozen=True, kw_only=True):
    """`scaler.load_state_dict(...)`: it goes on with the scale of another one.

    `scaler` is None if it cannot be told which one it is.
    """

    scaler: Ref | None


class LossScaled(Event, frozen=True, kw_only=True):
    """`scaler.scale(loss)`; `loss` is the argument, `result` what came back.

    `before` are the scalers that the argument had been multiplied by already, as far as known.
    """

    scaler: Ref
    loss: Ref
    result: Ref
    before: tuple[Ref, ...] = ()


class Backward(Event, frozen=True, kw_only=True):
    """`loss.backward()`.

    `scalers` are the scalers that the loss had been multiplied by, None if that is not known.
    `made_in` is the innermost enabled low-precision region the loss was computed in, `inside` the
    enabled autocast region that the call itself stands in, `entry` this very entry of it (a run tells
    it). `whole` says that the loss is the mean over one batch as a loss function returns it, divided
    by nothing; `idle` that it went through the `scale()` of a scaler that is switched off.
    """

    loss: Ref
    scalers: tuple[Ref, ...] | None
    made_in: Region | None = None
    inside: Region | None = None
    entry: Hashable = None
    whole: bool = False
    idle: bool = False


class Unscaled(Event, frozen=True, kw_only=True):
    """`scaler.unscale_(optimizer)`; `by_hand` for gradients divided by `get_scale()`.

    `definite` says that no other `Ref` can stand for the same optimizer. `guard` is where control may
    leave between here and the update below, `finite` that it does where numbers are not finite,
    `beside` that it may wherever this is reached. `called_at` is the call of the function around it.
    """

    scaler: Ref
    optimizer: Ref | None
    by_hand: bool = False
    definite: bool = True
    guard: Span | None = None
    finite: bool = False
    beside: bool = False
    called_at: Span | None = None


class GradientsClipped(Event, frozen=True, kw_only=True):
    """Gradients were clipped or edited; `optimizers` own them as far as known (None: not known).

    `exact` says that some gradients of each of these optimizers are among them for certain, `left` where
    it is asked whether their norm is finite, and the pass left, and the scaler not updated, if it is not.
    `called_at` is the call of the function around it, where that makes no gradients itself.
    """

    how: str
    optimizers: tuple[Ref, ...] | None = None
    exact: bool = True
    left: tuple[Span, Span] | None = None
    called_at: Span | None = None


class ScalerStep(Event, frozen=True, kw_only=True):
    """`scaler.step(optimizer)`; `wraps` are the optimizers that this one holds and steps itself.

    `definite` says that no other `Ref` can stand for the same optimizer. `closure` says how a
    closure comes in: "keyword", "positional" (where the optimizer calls it), or "missing" where the
    optimizer cannot step without one; None for an ordinary step. `alone` names the methods that nobody
    in the program calls on this scaler, where it is stepped for a caller out of sight. `edited` says
    that the gradients are, or may be, others than torch left.
    """

    scaler: Ref
    optimizer: Ref
    wraps: tuple[Ref, ...] = ()
    definite: bool = True
    closure: str | None = None
    alone: frozenset[str] = frozenset()
    edited: bool = False


class OptimizerStep(Event, frozen=True, kw_only=True):
    """`optimizer.step()`, called by the script itself.

    A run tells whether it stands `apart`, no backward pass having come to these parameters since the
    last step, and whether the gradients are `edited`: others than torch left, or the scale was asked for.
    The source tells whether a function makes the optimizer and steps it but `once`, as a test does.
    """

    optimizer: Ref
    apart: bool = False
    edited: bool = False
    once: bool = False


class ScalerUpdate(Event, frozen=True, kw_only=True):
    """`scaler.update()`; `to_given_scale` for `update(new_scale)`, which needs no step.

    `further` says whether the guard behind `unscale_` rests on what changes from iteration to iteration,
    and counts none; None if there is no guard, or nothing that it rests on.
    """

    scaler: Ref
    to_given_scale: bool = False
    further: bool | None = None


class GradientsZeroed(Event, frozen=True, kw_only=True):
    """`optimizer.zero_grad()` (or a model's: then `optimizer` is None).

    `to_none` says that the gradients are dropped, and not filled with zeros. `emptied` are the
    optimizers that hold parameters of that model and of no other.
    """

    optimizer: Ref | None
    to_none: bool = True
    emptied: tuple[Ref, ...] = ()

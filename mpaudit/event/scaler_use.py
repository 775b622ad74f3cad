"""What a scaler is used for, beyond the order of its methods."""

from __future__ import annotations

from mpaudit.event.core import Event, Ref
from mpaudit.finding import Span


class ScaledBare(Event, frozen=True, kw_only=True):
    """`scaler.scale(loss)` in a program that nowhere asks for low precision."""

    scaler: Ref


class GradientRead(Event, frozen=True, kw_only=True):
    """The size of gradients was looked at: a norm, a mean, a histogram.

    `places` is where, and where the functions around were called from, innermost first; `optimizers`
    own the gradients as far as known (None: not known).
    """

    how: str
    places: tuple[Span, ...]
    optimizers: tuple[Ref, ...] | None = None


class ScaleAsked(Event, frozen=True, kw_only=True):
    """`scaler.get_scale()`: somebody may divide by it."""

    scaler: Ref


class ScaledLossRead(Event, frozen=True, kw_only=True):
    """The number in a loss that is multiplied by the scale was taken out, by `how` ("item")."""

    loss: Ref
    scaler: Ref
    how: str

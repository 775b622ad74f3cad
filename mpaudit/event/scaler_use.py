"""What a scaler is used for, beyond the order of its methods."""

from __future__ import annotations

from dataclasses import dataclass

from mpaudit.event.core import Event, Ref
from mpaudit.finding import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledBare(Event):
    """`scaler.scale(loss)` in a program that nowhere asks for low precision."""

    scaler: Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientRead(Event):
    """The size of gradients was looked at: a norm, a mean, a histogram.

    `places` is where, and where the functions around were called from, innermost first; `optimizers`
    own the gradients as far as known (None: not known).
    """

    how: str
    places: tuple[Span, ...]
    optimizers: tuple[Ref, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleAsked(Event):
    """`scaler.get_scale()`: somebody may divide by it."""

    scaler: Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledLossRead(Event):
    """The number in a loss that is multiplied by the scale was taken out, by `how` ("item")."""

    loss: Ref
    scaler: Ref
    how: str

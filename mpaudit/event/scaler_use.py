"""What a scaler is used for, beyond the order of its methods."""

from __future__ import annotations

from dataclasses import dataclass

from mpaudit.event.core import Event, Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledBare(Event):
    """`scaler.scale(loss)` in a program that nowhere asks for low precision."""

    scaler: Ref

"""Checkpoints: whose state is taken, and whose is written to a file."""

from __future__ import annotations

from mpaudit.event.core import Event, Ref
from mpaudit.finding import Span


class ScalerStateTaken(Event, frozen=True, kw_only=True):
    """`scaler.state_dict()`, or the scaler itself is written to a file.

    `scaler` may be any object whose state is taken; None if it cannot be told which scaler it is.
    """

    scaler: Ref | None


class StateSaved(Event, frozen=True, kw_only=True):
    """`torch.save(...)` of something that holds the state of an optimizer.

    `taken` is where the state was taken, and where the functions around that place were called from,
    innermost first. `unseen` says that nobody saw the optimizer being set, so that only its spelling
    tells which it is, `resumed` that the program may load an optimizer's state somewhere.
    """

    optimizer: Ref
    taken: tuple[Span, ...]
    unseen: bool = False
    resumed: bool = True

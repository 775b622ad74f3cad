"""Forward passes that no autocast region is around."""

from __future__ import annotations

from mpaudit.event.core import Event, Region, event
from mpaudit.finding import Span


@event
class RegionMissed(Event):
    """`backward()` of a loss whose forward pass ran in no region, beside one that was entered.

    `called` is where the model, spelled `model`, was called. `region` is around the loss (`holds` is
    "loss") or around what only prepares the step ("preparation").
    """

    called: Span
    model: str
    region: Region
    holds: str


@event
class ThreadForward(Event):
    """A model was called in a thread that was started in `region` and has entered no region itself."""

    model: str
    region: Region

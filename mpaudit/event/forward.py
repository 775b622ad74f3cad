"""Forward passes that no autocast region is around."""

from __future__ import annotations

from mpaudit.event.core import Event, Region
from mpaudit.finding import Span


class RegionMissed(Event, frozen=True, kw_only=True):
    """`backward()` of a loss whose forward pass ran in no region, beside one that was entered.

    `called` is where the model, spelled `model`, was called. `region` is around the loss (`holds` is
    "loss") or around what only prepares the step ("preparation").
    """

    called: Span
    model: str
    region: Region
    holds: str


class ThreadForward(Event, frozen=True, kw_only=True):
    """A model was called in a thread that was started in `region` and has entered no region itself."""

    model: str
    region: Region

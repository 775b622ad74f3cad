"""What autocast keeps while a region lasts: the low-precision copies of the weights."""

from __future__ import annotations

from collections.abc import Hashable

from mpaudit.event.core import Event, Region, event
from mpaudit.finding import Span


@event
class RegionBackward(Event):
    """`backward()` in a region of a loss that was computed in it, from weights it cast and keeps.

    `entry` is this very entry of the outermost region, which the kept copies live as long as; `region`
    is that outermost region.
    """

    entry: Hashable
    region: Region


@event
class RegionStep(Event):
    """An optimizer changes the weights inside that entry of a region."""

    entry: Hashable


@event
class Captured(Event):
    """`how` records the operations that run in `region`, which keeps the weights it casts."""

    how: str
    region: Region


@event
class SentToDevice(Event):
    """A tensor is sent to the device of `region` inside it: something is computed there."""

    region: Region


@event
class CastCacheCleared(Event):
    """`torch.clear_autocast_cache()`."""


@event
class FunctionApplied(Event):
    """An own autograd function that autocast breaks is applied in `region`.

    `flaw` is "products" (matrices are multiplied in both passes) or "recomputes" (backward runs the
    forward pass again), `place` where it shows in the function, `name` that of its class.
    """

    name: str
    flaw: str
    place: Span
    region: Region

"""What autocast keeps while a region lasts: the low-precision copies of the weights."""

from __future__ import annotations

from collections.abc import Hashable

from mpaudit.event.core import Event, Region
from mpaudit.finding import Span


class RegionBackward(Event, frozen=True, kw_only=True):
    """`backward()` in a region of a loss that was computed in it, from weights it cast and keeps.

    `entry` is this very entry of the outermost region, which the kept copies live as long as; `region`
    is that outermost region.
    """

    entry: Hashable
    region: Region


class RegionStep(Event, frozen=True, kw_only=True):
    """An optimizer changes the weights inside that entry of a region."""

    entry: Hashable


class Captured(Event, frozen=True, kw_only=True):
    """`how` records the operations that run in `region`, which keeps the weights it casts."""

    how: str
    region: Region


class SentToDevice(Event, frozen=True, kw_only=True):
    """A tensor is sent to the device of `region` inside it: something is computed there."""

    region: Region


class CastCacheCleared(Event, frozen=True, kw_only=True):
    """`torch.clear_autocast_cache()`."""


class FunctionApplied(Event, frozen=True, kw_only=True):
    """An own autograd function that autocast breaks is applied in `region`.

    `flaw` is "products" (matrices are multiplied in both passes) or "recomputes" (backward runs the
    forward pass again), `place` where it shows in the function, `name` that of its class.
    """

    name: str
    flaw: str
    place: Span
    region: Region

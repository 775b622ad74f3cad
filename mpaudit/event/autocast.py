"""What autocast keeps while a region lasts: the low-precision copies of the weights."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from mpaudit.event.core import Event, Region
from mpaudit.finding import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionBackward(Event):
    """`backward()` in a region of a loss that was computed in it, from weights it cast and keeps.

    `entry` is this very entry of the outermost region, which the kept copies live as long as; `region`
    is that outermost region.
    """

    entry: Hashable
    region: Region


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionStep(Event):
    """An optimizer changes the weights inside that entry of a region."""

    entry: Hashable


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured(Event):
    """`how` records the operations that run in `region`, which keeps the weights it casts."""

    how: str
    region: Region


@dataclass(frozen=True, slots=True, kw_only=True)
class CastCacheCleared(Event):
    """`torch.clear_autocast_cache()`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionApplied(Event):
    """An own autograd function that autocast breaks is applied in `region`.

    `flaw` is "products" (matrices are multiplied in both passes) or "recomputes" (backward runs the
    forward pass again), `place` where it shows in the function, `name` that of its class.
    """

    name: str
    flaw: str
    place: Span
    region: Region

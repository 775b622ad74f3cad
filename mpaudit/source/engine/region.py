"""Autocast regions that are entered on a path."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Region
from mpaudit.finding import Span
from mpaudit.source.engine.logic import Logic
from mpaudit.source.engine.path import Identities, Path
from mpaudit.source.engine.values import NONE, Choice, Const, Thing, Value


class Regions:
    """What is known of regions; `places` holds where things were made or entered, by their uid."""

    identities: Identities
    logic: Logic
    places: dict[int, Span]

    def enter_region(self, region: Thing, at: Span, path: Path) -> None:
        """A region is entered; the pass of the loop that does so is remembered."""
        iteration = path.frame.iteration
        path.regions = (*path.regions, region)
        number = self.identities.number("entered", iteration, at, path.frame.context)
        path.learn(region, entered=Thing(number, since=iteration))
        self.places[region.uid] = at

    def region(self, path: Path) -> Thing | None:
        """The innermost region that is or may be switched on and casts; None where casting is off."""
        for region in reversed(path.regions):
            if region.kind == "autocast":
                on = self.logic.truth(path.known(region, "@enabled"), path)
                return None if on is False else region
        return None

    def describe(self, region: Value | None, path: Path) -> Region | None:
        """A region as events carry it; None if it is switched off on this path."""
        if not isinstance(region, Thing):
            return None
        enabled = self.logic.truth(path.known(region, "@enabled"), path)
        place = self.places.get(region.uid)
        if enabled is False or place is None:
            return None
        device = self.logic.settled(path.known(region, "@device"), path)
        dtype = self.logic.settled(path.known(region, "@dtype"), path)
        names = frozenset(_constants(dtype)) if isinstance(dtype, Choice) else frozenset()
        return Region(
            place,
            str(device.value) if isinstance(device, Const) and device != NONE else None,
            str(dtype.value) if isinstance(dtype, Const) and dtype != NONE else None,
            enabled,
            names,
        )


def _constants(value: Value) -> Iterator[str]:
    """The names that a value may be, whatever the open questions in it turn out to be."""
    if isinstance(value, Choice):
        yield from _constants(value.yes)
        yield from _constants(value.no)
    elif isinstance(value, Const) and isinstance(value.value, str):
        yield value.value

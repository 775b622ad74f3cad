"""Autocast regions that the forward pass is not in."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event, Forward, RegionMissed, ThreadForward
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

_HOLDS = {
    "loss": "the region is entered here, and holds the loss alone",
    "preparation": "the region is entered here, and holds nothing that computes",
}


class RegionMissedProtocol(Protocol):
    """MP202 and MP213; every event is judged by itself. A place that also runs in a region keeps the rule."""

    __slots__ = ()

    takes = (Forward, RegionMissed, ThreadForward)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one event."""
        if isinstance(event, Forward) and event.region is not None:
            yield Kept("forward-outside-autocast", event.at)
        elif isinstance(event, RegionMissed):
            yield _outside(event)
        elif isinstance(event, ThreadForward):
            yield _in_thread(event)


def _outside(event: RegionMissed) -> Broken:
    return Broken(
        Problem(
            "forward-outside-autocast",
            event.called,
            f"`{event.model}` runs outside of the autocast region",
            "the whole model computes in float32, as if there were no mixed precision: no time and no "
            "memory is saved",
            (
                Related(event.region.span, _HOLDS[event.holds]),
                Related(event.at, "its loss is propagated back here"),
            ),
            (("model", event.model),),
        )
    )


def _in_thread(event: ThreadForward) -> Broken:
    return Broken(
        Problem(
            "autocast-across-threads",
            event.at,
            f"`{event.model}` runs in a thread of its own, outside of the autocast region",
            "every thread starts with autocast off, wherever it is started: the model computes in float32",
            (Related(event.region.span, "the region is entered here, for this thread alone"),),
            (("model", event.model),),
        ),
        grounded=True,
    )

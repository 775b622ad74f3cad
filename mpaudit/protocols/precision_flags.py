"""Switches for the precision that exclude each other, or that are there no longer."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event, PrecisionAsked, PrecisionRefused
from mpaudit.finding import Problem
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

RULE = "conflicting-precision-flags"


class PrecisionFlagsProtocol(Protocol):
    """MP606; every call is judged by itself."""

    __slots__ = ()

    takes = (PrecisionAsked, PrecisionRefused)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one call."""
        match event:
            case PrecisionAsked(both=True):
                yield _both(event)
            case PrecisionAsked():
                yield Kept(RULE, event.at)
            case PrecisionRefused():
                yield _refused(event)


def _both(event: PrecisionAsked) -> Broken:
    one, other = event.switches
    what = " for full eval" if "eval" in one else ""
    return Broken(
        Problem(
            RULE,
            event.at,
            f"`{one}` and `{other}` are both on in {event.maker}",
            f'it raises "At most one of fp16 and bf16 can be True{what}, but not both"',
            (),
            (("drop", one), ("keep", other)),
        )
    )


def _refused(event: PrecisionRefused) -> Broken:
    if event.value:
        said = f"{event.maker} knows no `{event.argument}={event.value}`"
    else:
        since = f" since {event.since}" if event.since else ""
        said = f"{event.maker} has no argument `{event.argument}`{since}"
    return Broken(
        Problem(
            RULE,
            event.at,
            said,
            f'it raises "{event.error}"',
            (),
            (("argument", event.argument), ("value", event.value), ("instead", event.instead)),
        )
    )

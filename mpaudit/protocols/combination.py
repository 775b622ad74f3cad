"""What Lightning refuses to do together under mixed precision, or in manual optimisation."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import CombinationRefused, Event
from mpaudit.finding import Problem
from mpaudit.protocols.protocol import Broken, Protocol, Verdict


class CombinationProtocol(Protocol):
    """MP612; every combination is judged by itself."""

    __slots__ = ()

    takes = (CombinationRefused,)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one combination."""
        if isinstance(event, CombinationRefused):
            yield Broken(
                Problem(
                    "lightning-unsupported-combination",
                    event.at,
                    event.what,
                    f'it raises "{event.error}"',
                    event.because,
                    (("instead", event.instead),),
                ),
                grounded=True,
            )

"""What a script casts to float16 by hand although autocast does the casting."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event, InputHalved
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Protocol, Verdict


class HalfInputProtocol(Protocol):
    """MP305; every input is judged by itself."""

    __slots__ = ()

    takes = (InputHalved,)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one input."""
        if not isinstance(event, InputHalved):
            return
        yield Broken(
            Problem(
                "manual-half-cast",
                event.at,
                f"an input of `{event.model.text}` is cast to float16 by hand, under autocast",
                "values beyond 65504 become inf and values below 3e-8 become 0 before the first layer "
                "sees them; autocast casts what it may cast, and keeps float32 for the rest",
                (
                    Related(event.called, f"`{event.model.text}` is called with it here"),
                    Related(event.region.span, "the region is entered here"),
                ),
                (("model", event.model.text),),
            ),
            grounded=True,
        )

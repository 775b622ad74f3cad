"""Logarithms of probabilities that came from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event
from mpaudit.event.logarithm import CONSEQUENCES, LogTaken, said
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Protocol, Verdict


class LogarithmProtocol(Protocol):
    """MP405 through functions and models; every logarithm is judged by itself."""

    __slots__ = ()

    takes = (LogTaken,)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one logarithm."""
        if isinstance(event, LogTaken):
            nature = event.of.partition("(")[0]
            shown = event.shown
            related = (Related(shown, f"{nature} is applied here"),) if shown is not None else ()
            yield Broken(
                Problem("log-of-softmax", event.at, said(event.of), CONSEQUENCES[event.of], related)
            )

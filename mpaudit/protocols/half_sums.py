"""Sums in 16 bits that leave the range of float16."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event, SquaresReduced
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Protocol, Verdict

CONSEQUENCES = {
    "sum": "float16 ends at 65504: the squares of 1024 values of 8 already add up to inf",
    "mean": "float16 ends at 65504: one value beyond 256 has the square inf, and so the mean is inf",
}
CONSEQUENCES["norm"] = CONSEQUENCES["sum"] + ", and so the norm is"
DONE = {"sum": "are summed", "mean": "are averaged", "norm": "are summed, for its norm,"}


class HalfSumsProtocol(Protocol):
    """MP309; every sum is judged by itself."""

    __slots__ = ()

    takes = (SquaresReduced,)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one sum."""
        if isinstance(event, SquaresReduced):
            tensor = f"`{event.tensor.text}`" if event.tensor.text else "a difference"
            elsewhere = (Related(event.squared, "squared here"),)
            yield Broken(
                Problem(
                    "half-reduction",
                    event.at,
                    f"the squares of {tensor} {DONE[event.operation]} in float16",
                    CONSEQUENCES[event.operation],
                    (*(elsewhere if event.squared != event.at else ()), *event.because),
                    (("tensor", event.tensor.text), ("library", event.library)),
                ),
                grounded=True,
            )

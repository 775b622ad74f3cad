"""Attempts that end alike, of which the tracer is told at once."""

from __future__ import annotations

from mpaudit.runtime.tracer import Tracer


class Alike:
    """The last attempts of each optimizer, until one ends in another way."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._held: dict[int, tuple[int, int, tuple[bool | None, float | None]]] = {}

    def settled(self, optimizer: int, step: int, applied: bool | None, scale: float | None) -> None:
        """`Tracer.settled`, later."""
        how = applied, scale
        first, count, before = self._held.get(optimizer, (step, 0, how))
        if before != how:
            self._tracer.settled(optimizer, first, *before, of=count)
            first, count = step, 0
        self._held[optimizer] = first, count + 1, how

    def tell(self) -> None:
        """Tell of those that are left."""
        for optimizer, (first, count, how) in self._held.items():
            self._tracer.settled(optimizer, first, *how, of=count)

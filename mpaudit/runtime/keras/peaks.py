"""The largest magnitude of a layer's outputs in each step, kept on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy
import tensorflow as tf

from mpaudit.runtime.keras.clock import Clock
from mpaudit.runtime.keras.shelf import Held

ROOM = 1024
"""Steps whose magnitudes fit between two reads."""

_NOTHING = -1.0


class Ring:
    """The largest finite magnitude of each of the last `ROOM` ticks."""

    __slots__ = ("_clock", "_host", "_place")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._place = clock.place("peaks", lambda: numpy.full([ROOM], _NOTHING, numpy.float32))
        self._host: dict[int, float] = {}

    @property
    def here(self) -> Held:
        """The ring, in float32."""
        return self._place.here

    def note_on_host(self, amax: float) -> None:
        """What the host measured now; below zero for nothing."""
        tick = self._clock.on_host()
        self._host[tick] = max(self._host.get(tick, _NOTHING), amax)

    def read(self, ticks: range) -> Iterator[tuple[int, float]]:
        """The magnitudes of `ticks`, which are over, where there are any; they are forgotten.

        Nothing where there were more ticks than the ring has room for: they are mixed up in it.
        """
        held = numpy.full([ROOM], _NOTHING, numpy.float32)

        def kept(ring: Any) -> Any:
            ring = ring.copy()
            ring[:, [tick % ROOM for tick in ticks]] = _NOTHING
            return ring

        if len(ticks):
            for ring in self._place.swept(kept):
                held = numpy.maximum(held, ring)
        for tick in ticks:
            inside = float(held[tick % ROOM]) if len(ticks) < ROOM else _NOTHING
            amax = max(self._host.pop(tick, _NOTHING), inside)
            if amax >= 0:
                yield tick, amax


def raise_peak(held: Held, tick: Any, amax: Any) -> Any:
    """Raise the entry of a tick to `amax`; returns the operation."""
    return tf.raw_ops.ResourceScatterMax(
        resource=held.resource,
        indices=held.first + tick % ROOM,
        updates=tf.cast(amax, tf.float32),
    )

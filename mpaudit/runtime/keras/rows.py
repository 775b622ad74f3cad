"""Sums over the tensors of a step, of the sampled steps, kept on the device until they are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy
import tensorflow as tf

from mpaudit.runtime.keras.clock import Clock
from mpaudit.runtime.keras.shelf import Held
from mpaudit.runtime.keras.tick import ordinal_of

SLOTS = 8
"""Sampled steps of which the sums fit between two reads."""

_TICK, _TENSORS, _HEAD = 0, 1, 2  # the head of a row, before its sums
_NEVER = -1.0


class Rows:
    """One row for each of the last `SLOTS` sampled ticks, with `width` sums; the host has its own.

    So has each replica of a strategy; what is read are the sums of all.
    """

    __slots__ = ("_host", "_place", "_width")

    def __init__(self, clock: Clock, width: int) -> None:
        self._width = width
        self._place = clock.place(("rows", width), self._empty)
        self._host: dict[int, Any] = {}

    @property
    def here(self) -> Held:
        """Those of the device."""
        return self._place.here

    def add_on_host(self, tick: int, sums: Any, most: int) -> None:
        """Add what the host summed up of a tensor, as one of `most` in a tick."""
        row = self._host.setdefault(tick, numpy.zeros([_HEAD + self._width]))
        if row[_TENSORS] < most:
            row[_TENSORS] += 1
            row[_HEAD:] += sums

    def read(self, now: int, *, last: bool = False) -> Iterator[tuple[int, int, Any]]:
        """Of each tick before `now`: tensors and sums, forgotten by that; at `last`, of all."""
        rows = dict(self._host)

        def over(held: Any) -> Any:
            return (held[:, _TICK] != _NEVER) & ((held[:, _TICK] < now) | last)

        def kept(held: Any) -> Any:
            return numpy.where(over(held)[:, None], self._empty(), held)

        for held in self._place.swap(kept):
            for row in held[over(held)]:
                tick = int(row[_TICK])
                rows[tick] = row + rows[tick] if tick in rows else row
        for tick, row in sorted(rows.items()):
            if tick < now or last:
                self._host.pop(tick, None)
                yield tick, int(row[_TENSORS]), row[_HEAD:]

    def _empty(self) -> Any:
        rows = numpy.zeros([SLOTS, _HEAD + self._width])
        rows[:, _TICK] = _NEVER
        return rows


def add(held: Held, tick: Any, sums: Any, most: int) -> Any:
    """`Rows.add_on_host` inside a graph, at a sampled tick; gives the operation.

    `sums` is a vector of float64.
    """
    now = tf.cast(tick, tf.float64)
    slot = held.first + ordinal_of(tick) % SLOTS
    row = tf.raw_ops.ResourceGather(resource=held.resource, indices=slot, dtype=tf.float64)
    row.set_shape([_HEAD + sums.shape[0]])
    begun = row[_TICK] == now
    full = begun & (row[_TENSORS] >= most)
    more = tf.concat([tf.stack([now, tf.constant(1, tf.float64)]), sums], 0)
    before = row * tf.constant([0.0] + [1.0] * (row.shape[0] - 1), tf.float64)
    row = tf.where(full, row, tf.where(begun, before + more, more))
    return tf.raw_ops.ResourceScatterUpdate(resource=held.resource, indices=slot, updates=row)

"""Sums over the tensors of a step, of the sampled steps, kept on the device until they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy
import tensorflow as tf

from mpaudit.runtime.keras.clock import Clock
from mpaudit.runtime.keras.shelf import Held, turns
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
        """Of each tick before `now`: tensors and sums, forgotten by that; at `last`, of all, which are
        not asked for again."""
        rows = {tick: row for tick, row in self._host.items() if tick < now or last}
        for tick in rows:
            del self._host[tick]

        def kept(held: Any) -> Any:
            over = (held[:, :, _TICK] != _NEVER) & (held[:, :, _TICK] < now)
            return numpy.where(over[:, :, None], self._empty(), held)

        for held in self._place.swept(kept):
            there = held[held[:, _TICK] != _NEVER]
            for row in there if last else there[there[:, _TICK] < now]:
                tick = int(row[_TICK])
                rows[tick] = row + rows[tick] if tick in rows else row
        for tick, row in sorted(rows.items()):
            yield tick, int(row[_TENSORS]), row[_HEAD:]

    def _empty(self) -> Any:
        rows = numpy.zeros([SLOTS, _HEAD + self._width])
        rows[:, _TICK] = _NEVER
        return rows


def add(places: Sequence[Held], tick: Any, sums: Any, most: int) -> Any:
    """`Rows.add_on_host` inside a graph, at a sampled tick, of several places; gives the operation.

    `sums` is a matrix of float64, with a row for each.
    """
    now = tf.cast(tick, tf.float64)
    slot = ordinal_of(tick) % SLOTS
    done = []
    for resource, numbers in turns(places):
        slots = tf.stack([places[n].first for n in numbers]) + slot
        held = tf.raw_ops.ResourceGather(resource=resource, indices=slots, dtype=tf.float64)
        held.set_shape([len(numbers), _HEAD + sums.shape[1]])
        begun = held[:, _TICK, None] == now
        full = begun & (held[:, _TENSORS, None] >= most)
        head = tf.broadcast_to(tf.stack([now, tf.constant(1, tf.float64)]), [len(numbers), _HEAD])
        more = tf.concat([head, tf.gather(sums, numbers)], 1)
        before = held * tf.constant([0.0] + [1.0] * (held.shape[1] - 1), tf.float64)
        new = tf.where(full, held, tf.where(begun, before + more, more))
        update = tf.raw_ops.ResourceScatterUpdate(resource=resource, indices=slots, updates=new)
        done.append(update)
    return tf.group(done)

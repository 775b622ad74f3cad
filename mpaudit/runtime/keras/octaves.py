"""Numbers of tensors by power of two, counted where they are, in the sampled steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy
import tensorflow as tf

from mpaudit.runtime.keras.clock import (
    Clock,
    ordinal_of,
    resource,
    sampled_at,
    tick_of,
    traced,
)
from mpaudit.runtime.octaves import BINS, INF, SAMPLE
from mpaudit.runtime.sampling import CALLS, sampled

SLOTS = 8
"""Sampled steps of which the counts fit between two reads."""

_SPREAD = 40503  # 2**16 / the golden ratio: multiples of it, modulo 2**16, are spread evenly
_MAGNITUDE, _FRACTION, _INFINITY = 0x7FFFFFFF, 0x7FFFFF, 0x7F800000
_TICK, _TENSORS, _ELEMENTS, _HEAD = 0, 1, 2, 3  # the head of a row, before its counts
_NEVER = -1.0
_SHIFT = INF - 255  # from the exponent's field of a float32 to its bin


@dataclass(frozen=True, slots=True)
class Counted:
    """The tensors of one tick: how many, their elements, and a sample's counts (`octaves.BINS`)."""

    tick: int
    tensors: int
    elements: int
    counts: tuple[int, ...]


class Octaves:
    """The counts of all tensors of one dtype that pass one place.

    On the device, one row for each of the last `SLOTS` sampled ticks; what the host counts itself, it
    keeps. Of a place that is passed more often in one step, the first `CALLS` tensors are counted.
    """

    __slots__ = ("_clock", "_handle", "_host")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._handle: Any = None
        self._host: dict[int, Any] = {}

    @property
    def handle(self) -> Any:
        """The resource that holds the rows."""
        if self._handle is None:
            with tf.init_scope():
                self._handle = resource(tf.constant(_empty(), tf.float64))
        return self._handle

    def note(self, value: Any) -> None:
        """Count a tensor if this is a sampled step, now or whenever the graph that is traced runs."""
        value = tf.stop_gradient(value)
        if not tf.executing_eagerly():
            flat = tf.reshape(value, [-1])
            _counter(value.dtype)(flat, self.handle, self._clock.handle)
        elif sampled(self._clock.on_host()):
            self.note_on_host(value.numpy())

    def note_on_host(self, values: Any) -> None:
        """Count what lies in the host's memory, as NumPy has it, if this is a sampled step."""
        tick = self._clock.on_host()
        if not sampled(tick):
            return
        row = self._host.setdefault(tick, numpy.zeros([_HEAD + BINS]))
        if row[_TENSORS] < CALLS:
            row[[_TENSORS, _ELEMENTS]] += 1, values.size
            row[_HEAD:] += _counts_on_host(values)

    def read(self, now: int, *, last: bool = False) -> Iterator[Counted]:
        """What was counted in ticks before `now`, and is forgotten by that; at `last`, all of it."""
        rows = dict(self._host)
        if self._handle is not None:
            with tf.init_scope():
                held = tf.raw_ops.ReadVariableOp(resource=self._handle, dtype=tf.float64).numpy()
                over = (held[:, _TICK] != _NEVER) & ((held[:, _TICK] < now) | last)
                kept = numpy.where(over[:, None], _empty(), held)
                tf.raw_ops.AssignVariableOp(
                    resource=self._handle, value=tf.constant(kept, tf.float64)
                )
            for row in held[over]:
                tick = int(row[_TICK])
                rows[tick] = row + rows[tick] if tick in rows else row
        for tick, row in sorted(rows.items()):
            if tick < now or last:
                self._host.pop(tick, None)
                counts = tuple(int(count) for count in row[_HEAD:])
                yield Counted(tick, int(row[_TENSORS]), int(row[_ELEMENTS]), counts)


@cache
def _counter(dtype: Any) -> Callable[..., Any]:
    """`count_if_sampled` as one operation, for the handles of the rows and of the clock."""

    def count(value: Any, handle: Any, clock: Any) -> Any:
        return count_if_sampled(handle, tick_of(clock), value)

    return traced(count, tf.TensorSpec([None], dtype), 2)


def count_if_sampled(handle: Any, tick: Any, value: Any) -> Any:
    """Count `value` in the row of this tick; gives an operation that is run by then."""
    return tf.cond(sampled_at(tick), lambda: _count(handle, tick, value), lambda: tf.constant(0.0))


def _count(handle: Any, tick: Any, value: Any) -> Any:
    now = tf.cast(tick, tf.float64)
    slot = ordinal_of(tick) % SLOTS
    row = tf.raw_ops.ResourceGather(resource=handle, indices=slot, dtype=tf.float64)
    row.set_shape([_HEAD + BINS])
    begun = row[_TICK] == now
    full = begun & (row[_TENSORS] >= CALLS)
    head = [now, tf.constant(1, tf.float64), tf.cast(tf.size(value, tf.int64), tf.float64)]
    more = tf.concat([tf.stack(head), tf.cast(_counts(value), tf.float64)], 0)
    before = row * tf.constant([0.0] + [1.0] * (_HEAD - 1 + BINS), tf.float64)
    row = tf.where(full, row, tf.where(begun, before + more, more))
    done = tf.raw_ops.ResourceScatterUpdate(resource=handle, indices=slot, updates=row)
    with tf.control_dependencies([done]):
        return tf.constant(0.0)


def _counts(value: Any) -> Any:
    """How many numbers of a sample are in each of the BINS; wider ones as float32 holds them.

    Integers all the way: subnormal numbers are zero to the arithmetic of TensorFlow on a CPU.
    """
    sample = tf.cast(_sample(tf.reshape(value, [-1])), tf.float32)
    bits = tf.bitwise.bitwise_and(tf.bitcast(sample, tf.int32), _MAGNITUDE)
    field = tf.bitwise.right_shift(bits, 23)
    fraction = tf.cast(tf.bitwise.bitwise_and(bits, _FRACTION), tf.float32)
    below = tf.bitwise.right_shift(tf.bitcast(fraction, tf.int32), 23) - 126  # of a subnormal one
    places = tf.where(field > 0, field + _SHIFT, tf.maximum(below, 0))
    places += tf.cast(bits > _INFINITY, tf.int32)
    ones = tf.ones_like(places, tf.float32)
    return tf.math.unsorted_segment_sum(ones, places, BINS)


def _sample(flat: Any) -> Any:
    """One number of each of SAMPLE equal stretches, all where there are no more than that."""
    if flat.shape[0] is not None and flat.shape[0] <= SAMPLE:
        return flat
    size = tf.size(flat, tf.int64)
    count = tf.minimum(size, SAMPLE)
    return tf.gather(flat, _stretches(tf.range(count), size, tf.maximum(count, 1)))


def _stretches(number: Any, size: Any, count: Any) -> Any:
    """Where in `size` numbers those of a sample of `count` are: not at equal distances."""
    return (number * size + (number * _SPREAD % 65536 * size) // 65536) // count


def _counts_on_host(values: Any) -> Any:
    flat = values.reshape(-1)
    if flat.size > SAMPLE:
        flat = flat[_stretches(numpy.arange(SAMPLE, dtype=numpy.int64), flat.size, SAMPLE)]
    with numpy.errstate(over="ignore"):
        bits = numpy.bitwise_and(flat.astype(numpy.float32).view(numpy.int32), _MAGNITUDE)
    field = bits >> 23
    fraction = numpy.bitwise_and(bits, _FRACTION).astype(numpy.float32).view(numpy.int32)
    places = numpy.where(field > 0, field + _SHIFT, numpy.maximum((fraction >> 23) - 126, 0))
    return numpy.bincount(places + (bits > _INFINITY), minlength=BINS)


def _empty() -> Any:
    rows = numpy.zeros([SLOTS, _HEAD + BINS])
    rows[:, _TICK] = _NEVER
    return rows

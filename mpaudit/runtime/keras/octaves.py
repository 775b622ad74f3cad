"""Numbers of tensors by power of two, counted where they are, in the sampled steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy
import tensorflow as tf
from msgspec import Struct

from mpaudit.runtime.keras.attempt import Look
from mpaudit.runtime.keras.clock import Clock
from mpaudit.runtime.keras.parcel import Member
from mpaudit.runtime.keras.rows import Rows, add
from mpaudit.runtime.keras.shelf import Held
from mpaudit.runtime.octaves import BINS, INF, SAMPLE
from mpaudit.runtime.sampling import CALLS, sampled

_SPREAD = 40503  # 2**16 / the golden ratio: multiples of it, modulo 2**16, are spread evenly
_MAGNITUDE, _FRACTION, _INFINITY = 0x7FFFFFFF, 0x7FFFFF, 0x7F800000
_SHIFT = INF - 255  # from the exponent's field of a float32 to its bin


class Counted(Struct, frozen=True):
    """The tensors of one tick: how many, their elements, and a sample's counts (`octaves.BINS`)."""

    tick: int
    tensors: int
    elements: int
    counts: tuple[int, ...]


class Octaves:
    """The counts of all tensors of one dtype that pass one place.

    Of a place that is passed more often in one step, the first `CALLS` tensors are counted.
    """

    __slots__ = ("_clock", "_rows")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rows = Rows(clock, 1 + BINS)  # the number of elements, and the counts

    def note(self, value: Any) -> None:
        """Count a tensor if this is a sampled step, now or whenever the graph that is traced runs."""
        if not tf.executing_eagerly():
            self._clock.look(self.look(value))
        elif sampled(self._clock.on_host()):
            self.note_on_host(value.numpy())

    def look(self, value: Any) -> Look:
        """What is to be done with a tensor in a graph."""
        return Look(COUNTING, value, [self._rows.here])

    def note_on_host(self, values: Any) -> None:
        """Count what lies in the host's memory, as NumPy has it, if this is a sampled step."""
        tick = self._clock.on_host()
        if sampled(tick):
            self._rows.add_on_host(tick, [values.size, *_counts_on_host(values)], CALLS)

    def read(self, now: int, *, last: bool = False) -> Iterator[Counted]:
        """What was counted in ticks before `now`, and is forgotten by that; at `last`, all of it."""
        for tick, tensors, (elements, *counts) in self._rows.read(now, last=last):
            yield Counted(tick, tensors, int(elements), tuple(int(count) for count in counts))


def of_variable(octaves: Octaves, variable: Any, dtype: str) -> Look:
    """Counting what a variable holds, by its handle: a tensor would be memory to the graph."""
    handles = [*octaves.look(None).handles, Held(variable, 0)]
    return Look(COUNTING, None, handles, tf.as_dtype(dtype))


class _Counting:
    """What is done with all tensors that are counted together: `Together`.

    Integers all the way: subnormal numbers are zero to the arithmetic of TensorFlow on a CPU.
    """

    sampled = True

    def alone(self, value: Any) -> Sequence[Any]:
        """A sample, wider ones as float32 holds them: its bits; and the size."""
        bits = tf.bitcast(tf.cast(sample(value), tf.float32), tf.int32)
        return bits, tf.size(value, tf.int64)

    def all(self, tick: Any, members: Sequence[Member]) -> Any:
        """How many numbers of each sample are in each of the BINS."""
        samples = [each.found[0] for each in members]
        rows = [tf.fill(tf.shape(each), BINS * n) for n, each in enumerate(samples)]
        places = _places(tf.concat(samples, 0)) + tf.concat(rows, 0)
        ones = tf.ones_like(places, tf.float32)
        counts = tf.math.unsorted_segment_sum(ones, places, BINS * len(members))
        sizes = tf.stack([each.found[1] for each in members])[:, None]
        parts = sizes, tf.reshape(counts, [len(members), BINS])
        sums = tf.concat([tf.cast(each, tf.float64) for each in parts], 1)
        with tf.control_dependencies([add([m.handles[0] for m in members], tick, sums, CALLS)]):
            return tf.constant(False)


COUNTING = _Counting()
"""There once."""


def _places(bits: Any) -> Any:
    """The bin of each number, by the bits of a float32."""
    bits = tf.bitwise.bitwise_and(bits, _MAGNITUDE)
    field = tf.bitwise.right_shift(bits, 23)
    fraction = tf.cast(tf.bitwise.bitwise_and(bits, _FRACTION), tf.float32)
    below = tf.bitwise.right_shift(tf.bitcast(fraction, tf.int32), 23) - 126  # of a subnormal one
    places = tf.where(field > 0, field + _SHIFT, tf.maximum(below, 0))
    return places + tf.cast(bits > _INFINITY, tf.int32)


def sample(flat: Any) -> Any:
    """One number of each of SAMPLE equal stretches, all where there are no more than that."""
    if flat.shape[0] is not None and flat.shape[0] <= SAMPLE:
        return flat
    size = tf.size(flat, tf.int64)
    number = tf.range(tf.minimum(size, SAMPLE))
    spread = tf.bitwise.bitwise_and(number * _SPREAD, tf.constant(0xFFFF, tf.int64))
    length = tf.maximum(size, SAMPLE)  # each number by itself where there are no more
    place = number * length + _shifted(spread * length, 16)
    return tf.gather(flat, _shifted(place, SAMPLE.bit_length() - 1))


def _shifted(number: Any, bits: int) -> Any:
    """What remains to the left of some bits: TensorFlow divides forty times more slowly."""
    return tf.bitwise.right_shift(number, tf.constant(bits, tf.int64))


def _stretches(number: Any, size: int) -> Any:
    """Where in `size` numbers, more than SAMPLE, those of a sample are: not at equal distances."""
    return (number * size + (number * _SPREAD % 65536 * size) // 65536) // SAMPLE


def _counts_on_host(values: Any) -> Any:
    flat = values.reshape(-1)
    if flat.size > SAMPLE:
        flat = flat[_stretches(numpy.arange(SAMPLE, dtype=numpy.int64), flat.size)]
    with numpy.errstate(over="ignore"):
        bits = numpy.bitwise_and(flat.astype(numpy.float32).view(numpy.int32), _MAGNITUDE)
    field = bits >> 23
    fraction = numpy.bitwise_and(bits, _FRACTION).astype(numpy.float32).view(numpy.int32)
    places = numpy.where(field > 0, field + _SHIFT, numpy.maximum((fraction >> 23) - 126, 0))
    return numpy.bincount(places + (bits > _INFINITY), minlength=BINS)

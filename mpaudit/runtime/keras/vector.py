"""The vector that a tap keeps of its tensors, and how graphs join to it what they look at together.

Largest magnitude, minus the first bad tick, and the last bad tick of each remainder by RECENT, all joined
by maximum; then, joined by sum, how many infinities, NaNs, zeros, elements the zeros were counted in,
elements, tensors, calls in training and others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy
import tensorflow as tf

from mpaudit.runtime.keras.octaves import sample
from mpaudit.runtime.keras.parcel import Member, one_of, traced
from mpaudit.runtime.keras.peaks import raise_peak
from mpaudit.runtime.keras.shelf import turns
from mpaudit.runtime.keras.tick import sampled_at
from mpaudit.runtime.octaves import SAMPLE

NEVER = -1.0e300
"""Minus the first bad tick where there was none."""
RECENT = 32
"""Bad ticks that are known one by one, at least the last ones of them that lie so close to each other."""
FIRST, TICKS, COUNTS = 1, slice(2, 2 + RECENT), slice(2 + RECENT, None)
TENSORS, CALLED = -3, slice(-2, None)
"""Where in a vector is what."""
BITS = {
    2: (tf.int16, tf.uint16, 0x7FFF),
    4: (tf.int32, tf.uint32, 0x7FFFFFFF),
    8: (tf.int64, tf.uint64, 0x7FFFFFFFFFFFFFFF),
}
"""By the bytes of a float: integers of that size with and without a sign, and what masks a float's."""
_START = (-1, NEVER, *[-1] * RECENT, 0, 0, 0, 0, 0, 0, 0, 0)
_EVERY = 16  # attempts between two counts of the zeros of a tensor inside a graph


def start() -> Any:
    """That of no tensor."""
    return numpy.array(_START, numpy.float64)


def started(held: Any) -> Any:
    """As many of those as are held."""
    return numpy.broadcast_to(start(), held.shape)


class _Together:
    """What taps do with all tensors that are looked at together: `Together`.

    On a CPU the largest magnitude is found as an integer, of those above and of those below zero: what
    has a sign is the larger to unsigned integers. That makes no tensor, which costs more than to read one
    twice. Everything else is counted only where there is something bad, and zeros now and then, in a
    sample. GPUs have no such operation for integers.
    """

    sampled = False

    def alone(self, value: Any) -> Sequence[Any]:
        """The largest one above and below zero, as integers, and the size."""
        if _on_gpu():
            return ()
        integer, unsigned, _ = BITS[value.dtype.size]
        below = tf.bitcast(tf.reduce_max(tf.bitcast(value, unsigned)), integer)
        return tf.reduce_max(tf.bitcast(value, integer)), below, tf.size(value, out_type=tf.int64)

    def all(self, tick: Any, members: Sequence[Member]) -> Any:
        """Join it to the vectors: those of different taps at once."""
        dtypes = tuple(each.value.dtype for each in members)
        values = [each.value for each in members]
        if _on_gpu():
            vectors = _closely(dtypes)(*values, tick)
        else:
            sizes = _double(tf.stack([each.found[2] for each in members]))
            tops = tf.where(sizes > 0, _tops(members), tf.constant(-1, tf.float64))
            counts = (tick % _EVERY == 0) | sampled_at(tick)
            bad = ~tf.reduce_all(tf.math.is_finite(tops))
            which = tf.where(bad, 0, tf.where(counts, 1, 2))
            ways = _closely(dtypes, given=True), _plainly(dtypes, zeros=True), _plainly(dtypes)
            vectors = one_of(which, ways, (*values, tick, tops, sizes))
        vectors.set_shape([len(members), len(_START)])
        places = [each.handles[0] for each in members]
        for resource, numbers in turns(places):
            _join(resource, [(places[n].first, n) for n in numbers], vectors)
        for n, each in enumerate(members):
            for peaks in each.handles[1:]:
                raise_peak(peaks, tick, vectors[n, 0])
        return tf.reduce_any(vectors[:, FIRST] > NEVER)


def _tops(members: Sequence[Member]) -> Any:
    """The largest magnitudes, not numbers where something bad is in a tensor: of each dtype at once."""
    numbers: dict[Any, list[int]] = {}
    for number, each in enumerate(members):
        numbers.setdefault(each.value.dtype, []).append(number)
    found = []
    for dtype, its in numbers.items():
        integer, _, mask = BITS[dtype.size]
        both = tf.stack([tf.stack([members[n].found[way] for n in its]) for way in (0, 1)])
        bits = tf.bitwise.bitwise_and(both, tf.constant(mask, integer))
        found.append(_double(tf.bitcast(tf.reduce_max(bits, 0), dtype)))
    if len(found) == 1:
        return found[0]
    order = [n for its in numbers.values() for n in its]
    return tf.gather(tf.concat(found, 0), [order.index(n) for n in range(len(order))])


TOGETHER = _Together()
"""There once."""


def _on_gpu() -> bool:
    return bool(tf.config.list_logical_devices("GPU"))


@cache
def _closely(dtypes: tuple[Any, ...], *, given: bool = False) -> Any:
    """The vectors of tensors of these dtypes, with everything counted, as one function of them and the
    tick, and of what `_plainly` is `given`."""

    def closely(*taken: Any) -> Any:
        tick = taken[len(dtypes)]
        return tf.stack([_counted(each.dtype)(each, tick) for each in taken[: len(dtypes)]])

    return traced(closely, [*_specs(dtypes), *(_DOUBLES if given else [])], inlined=False)


@cache
def _plainly(dtypes: tuple[Any, ...], *, zeros: bool = False) -> Any:
    """The same of tensors in which nothing is bad, from their largest magnitudes and sizes; `zeros` are
    counted in a sample, or not at all."""

    def plainly(*taken: Any) -> Any:
        tops, sizes = taken[-2:]
        before = numpy.tile(start()[FIRST : COUNTS.start + 2], (len(dtypes), 1))
        sampled = tf.zeros([len(dtypes), 2], tf.float64)
        if zeros:
            found = [_double(_zeros(sample(each))) for each in taken[: len(dtypes)]]
            sampled = tf.stack([tf.stack(found), tf.minimum(sizes, float(SAMPLE))], 1)
        after = numpy.tile([1.0, 0.0, 0.0], (len(dtypes), 1))
        return tf.concat([tops[:, None], before, sampled, sizes[:, None], after], 1)

    return traced(plainly, [*_specs(dtypes), *_DOUBLES], inlined=False)


def _specs(dtypes: tuple[Any, ...]) -> list[Any]:
    return [*(tf.TensorSpec([None], dtype) for dtype in dtypes), tf.TensorSpec([], tf.int64)]


def _zeros(values: Any) -> Any:
    """How many there are, as integers: to the arithmetic of TensorFlow on a CPU subnormal ones are zero."""
    integer, _, mask = BITS[values.dtype.size]
    bits = tf.bitwise.bitwise_and(tf.bitcast(values, integer), mask)
    return tf.size(bits, tf.int64) - tf.math.count_nonzero(bits)


_DOUBLES = [tf.TensorSpec([None], tf.float64)] * 2


@cache
def _counted(dtype: Any) -> Any:
    """The vector of one tensor, with everything counted."""

    def counted(value: Any, tick: Any) -> Any:
        magnitude = tf.where(tf.math.is_finite(value), tf.abs(value), tf.constant(-1, dtype))
        amax = tf.maximum(tf.reduce_max(magnitude), tf.constant(-1, dtype))
        kinds = (tf.math.is_inf(value), tf.math.is_nan(value), value == tf.zeros([], dtype))
        inf, nan, zeros = (tf.reduce_sum(tf.cast(kind, tf.float32)) for kind in kinds)
        now = tf.cast(tick, tf.float64)
        bad = inf + nan > 0
        first = tf.where(bad, -now, tf.constant(NEVER, tf.float64))
        its = tf.range(RECENT, dtype=tf.int64) == tick % RECENT
        ticks = tf.where(its & bad, now, tf.constant(-1.0, tf.float64))
        size = tf.size(value, out_type=tf.int64)
        counts = (inf, nan, zeros, size, size, 1, 0, 0)
        one = tf.stack([_double(amax), first])
        return tf.concat([one, ticks, tf.stack([_double(each) for each in counts])], 0)

    return traced(counted, _specs((dtype,)), inlined=True)


def _double(value: Any) -> Any:
    return tf.cast(value, tf.float64) if tf.is_tensor(value) else tf.constant(value, tf.float64)


def _join(resource: Any, rows: Sequence[tuple[Any, int]], vectors: Any) -> None:
    """Join to each of some rows of a resource the vector of this number."""
    firsts, numbers = (tf.stack(each) for each in zip(*rows, strict=True))
    old = tf.raw_ops.ResourceGather(resource=resource, indices=firsts, dtype=tf.float64)
    more = tf.gather(vectors, numbers)
    by_maximum = tf.constant([True] * COUNTS.start + [False] * (len(_START) - COUNTS.start))
    new = tf.where(by_maximum, tf.maximum(old, more), old + more)
    tf.raw_ops.ResourceScatterUpdate(resource=resource, indices=firsts, updates=new)

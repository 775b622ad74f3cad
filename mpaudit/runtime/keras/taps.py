"""Measuring tensors where they are: inside the graph, on the device, without a call to the host.

A `Tap` keeps one small vector in a resource beside the model; graphs that are compiled by XLA may
read and assign it like any variable. The host reads it when the trace is flushed, and resets it.
Tensors of eager mode that lie in the host's memory are measured there at once, as integers: floats
of one sign have the order of their bits, and that is ten times faster than TensorFlow's operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy
import tensorflow as tf

from mpaudit.runtime.keras.attempt import Look
from mpaudit.runtime.keras.clock import Clock
from mpaudit.runtime.keras.octaves import Octaves, sample
from mpaudit.runtime.keras.order import Order
from mpaudit.runtime.keras.parcel import Member, one_of, traced
from mpaudit.runtime.keras.peaks import Ring, raise_peak
from mpaudit.runtime.keras.runs import Calls
from mpaudit.runtime.keras.store import one_of_several
from mpaudit.runtime.keras.tick import sampled_at
from mpaudit.runtime.octaves import SAMPLE
from mpaudit.runtime.sampling import sampled

_NEVER = -1.0e300
_START = (-1, -1, _NEVER, 0, 0, 0, 0, 0, 0, 0, 0)
_EVERY = 16  # attempts between two counts of the zeros of a tensor inside a graph
_BITS = {
    2: (tf.int16, tf.uint16, 0x7FFF),
    4: (tf.int32, tf.uint32, 0x7FFFFFFF),
    8: (tf.int64, tf.uint64, 0x7FFFFFFFFFFFFFFF),
}
_INFINITY = {
    "float16": 0x7C00,
    "bfloat16": 0x7F80,
    "float32": 0x7F800000,
    "float64": 0x7FF0000000000000,
}
MEASURABLE = tuple(tf.dtypes.as_dtype(name) for name in _INFINITY)


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a tap measured since it was last read; ticks are those of the `Clock`.

    `amax` is the largest finite magnitude, None if nothing was finite; `zeros` are counted in a
    sample of `zeros_of` elements; `tensors` counts what was measured, `calls` the calls of the
    layer in training and `others` the rest. `replicas` of several are those that were bad at the first
    bad tick.
    """

    amax: float | None
    first_bad: int | None
    last_bad: int | None
    inf: int
    nan: int
    zeros: int
    zeros_of: int
    elements: int
    tensors: int
    calls: int
    others: int
    replicas: frozenset[int] = field(default=frozenset(), kw_only=True)


def measurable(value: object) -> bool:
    """Whether `value` is a dense tensor of a floating dtype that a tap can read."""
    return isinstance(value, tf.Tensor) and value.dtype in MEASURABLE


class Tap:
    """Rolls up all tensors of one dtype that pass one place.

    The vector: largest magnitude, last bad tick, minus the first bad tick (all joined by maximum);
    then the fields of `Numbers` from `inf` on (all joined by sum).
    """

    __slots__ = (
        *("_bad", "_calls", "_clock", "_dtype", "_host", "_order", "_place", "_top"),
        *("octaves", "peaks"),
    )

    def __init__(
        self, clock: Clock, dtype: str, octaves: Octaves | None = None, peaks: Ring | None = None
    ) -> None:
        self.octaves = octaves
        self.peaks = peaks
        self._clock = clock
        self._dtype = dtype
        self._place = clock.place("taps", lambda: _start()[None])
        self._bad: dict[int | None, int] = {}  # the first bad tick of each replica on the host
        self._calls = Calls()
        self._host = _start()
        self._order = Order()
        self._top = -1  # the largest finite magnitude seen by the host, as bits

    def note(self, value: Any, *, calls: int = 0, others: int = 0) -> None:
        """Measure a tensor, now if it is eager, else whenever the graph that is traced runs."""
        if tf.executing_eagerly() and "CPU" in value.device:
            self._note_on_host(value, calls, others)
        else:
            if calls or others:
                self._calls.add(calls, others)
            for look in self._looks(value):
                self._clock.look(look)

    def later(self) -> Callable[[Any], Any]:
        """`note` for the backward pass of what is computed now.

        It gives what something has to wait for, or None. The gradient of a loop may only use resources
        that the loop itself has captured: they are captured here.
        """
        if tf.executing_eagerly():
            return self.note
        graph = tf.compat.v1.get_default_graph()
        own = graph.capture(self._clock.handle)
        looks = [
            look._replace(handles=[each.captured() for each in look.handles])
            for look in self._looks(None)
        ]

        def record(value: Any) -> Any:
            done = [self._clock.look(look._replace(value=value), own) for look in looks]
            waits = [each for each in done if each is not None]
            return tf.group(waits) if waits else None

        return lambda value: self._order.run(lambda: record(value))

    def count(self, *, calls: int = 0, others: int = 0) -> None:
        """Count a call that has nothing to measure."""
        if tf.executing_eagerly():
            self._host[-2:] += (calls, others)
        else:
            self._calls.add(calls, others)

    def read(self) -> Numbers | None:
        """What came since the last read, None if nothing did. Waits for the device."""
        vector = self._host
        vector[0] = _float(self._top, self._dtype)
        self._host, self._top = _start(), -1
        first, self._bad = self._bad, {}
        replicas = self._place.replicas
        for number, (seen,) in zip(replicas, self._place.swept(_started), strict=True):
            if seen[2] > _NEVER:
                which = number if len(replicas) > 1 else None
                first[which] = min(first.get(which, -int(seen[2])), -int(seen[2]))
            vector = numpy.concatenate([numpy.maximum(vector[:3], seen[:3]), vector[3:] + seen[3:]])
        vector[-2:] += self._calls.read()
        if not vector[-3:].any():
            return None
        return Numbers(
            None if vector[0] < 0 else float(vector[0]),
            None if vector[2] == _NEVER else int(-vector[2]),
            None if vector[1] < 0 else int(vector[1]),
            *(int(each) for each in vector[3:]),
            replicas=frozenset(
                n for n, tick in first.items() if n is not None and tick == -vector[2]
            ),
        )

    def _looks(self, value: Any) -> list[Look]:
        """What is to be done with a tensor in a graph."""
        kept = [self._place.here, *([] if self.peaks is None else [self.peaks.here])]
        looks = [Look(_TOGETHER, value, kept)]
        return looks if self.octaves is None else [*looks, self.octaves.look(value)]

    def _note_on_host(self, value: Any, calls: int, others: int) -> None:
        host = self._host
        if not self._clock.looks():
            host[-2:] += (calls, others)
            return
        integer, _, mask = _BITS[value.dtype.size]
        bits = numpy.asarray(memoryview(tf.bitcast(value, integer)))
        bits = numpy.bitwise_and(bits, bits.dtype.type(mask))
        infinity = _INFINITY[value.dtype.name]
        top = int(bits.max()) if bits.size else -1
        if top >= infinity:
            tick = self._clock.read()
            host[1] = max(host[1], tick)
            host[2] = max(host[2], -tick)
            host[3] += numpy.count_nonzero(bits == infinity)
            host[4] += numpy.count_nonzero(bits > infinity)
            finite = bits < infinity
            top = int(bits.max(initial=0, where=finite)) if finite.any() else -1
            self._bad.setdefault(one_of_several(), tick)
            self._clock.alarm()
        self._top = max(self._top, top)
        zeros = bits.size - numpy.count_nonzero(bits)
        host[5:] += (zeros, bits.size, bits.size, 1, calls, others)
        if self.octaves is not None and sampled(self._clock.on_host()):
            self.octaves.note_on_host(value.numpy())
        if self.peaks is not None:
            self.peaks.note_on_host(_float(top, self._dtype))


def _start() -> Any:
    return numpy.array(_START, numpy.float64)


def _started(held: Any) -> Any:
    return numpy.broadcast_to(_start(), held.shape)


def _float(bits: int, dtype: str) -> float:
    """The float of `dtype` with these bits (not negative); -1 for -1."""
    if bits < 0:
        return -1.0
    if dtype == "bfloat16":  # the upper half of a float32
        bits, dtype = bits << 16, "float32"
    integer = {"float16": numpy.int16, "float32": numpy.int32, "float64": numpy.int64}[dtype]
    return float(numpy.array([bits], integer).view(dtype)[0])


class _Together:
    """What taps do with all tensors that are looked at together: `Together`.

    On a CPU the largest magnitude is found as an integer, of those above and of those below zero: what
    has a sign is the larger to unsigned integers. That makes no tensor, which costs more than to read one
    twice. Everything else is counted only where there is something bad, and zeros now and then, in a
    sample. GPUs have no such operation for integers.
    """

    def alone(self, value: Any) -> Sequence[Any]:
        """The largest magnitude, not a number where nothing or something bad is in there, and the size."""
        if _on_gpu():
            return ()
        integer, unsigned, mask = _BITS[value.dtype.size]
        tops = (
            tf.bitcast(tf.reduce_max(tf.bitcast(value, each)), integer)
            for each in (integer, unsigned)
        )
        top = tf.reduce_max(tf.bitwise.bitwise_and(tf.stack(list(tops)), mask))
        size = tf.size(value, out_type=tf.int64)
        top = tf.where(size > 0, top, tf.constant(-1, integer))
        return _double(tf.bitcast(top, value.dtype)), _double(size)

    def all(self, tick: Any, members: Sequence[Member]) -> Any:
        """Join it to the vectors: those of different taps at once."""
        dtypes = tuple(each.value.dtype for each in members)
        values = [each.value for each in members]
        if _on_gpu():
            vectors = _closely(dtypes)(*values, tick)
        else:
            tops = tf.stack([each.found[0] for each in members])
            sizes = tf.stack([each.found[1] for each in members])
            counts = (tick % _EVERY == 0) | sampled_at(tick)
            bad = ~tf.reduce_all(tf.math.is_finite(tops))
            which = tf.where(bad, 0, tf.where(counts, 1, 2))
            ways = _closely(dtypes, given=True), _plainly(dtypes, zeros=True), _plainly(dtypes)
            vectors = one_of(which, ways, (*values, tick, tops, sizes))
        vectors.set_shape([len(members), len(_start())])
        waiting = [(each.handles[0], n) for n, each in enumerate(members)]
        while waiting:  # a tap that comes more than once takes turns with itself
            first = {(id(held.resource), id(held.first)): n for held, n in reversed(waiting)}
            turn = [each for each in waiting if each[1] in first.values()]
            waiting = [each for each in waiting if each[1] not in first.values()]
            for resource in {id(held.resource): held.resource for held, _ in turn}.values():
                _join(resource, [(h.first, n) for h, n in turn if h.resource is resource], vectors)
        for n, each in enumerate(members):
            for peaks in each.handles[1:]:
                raise_peak(peaks, tick, vectors[n, 0])
        return tf.reduce_any(vectors[:, 1] >= 0)


_TOGETHER = _Together()


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
        ones = tf.ones_like(sizes)
        columns = [ones * float(each) for each in _START]
        columns[0], columns[7], columns[8] = tops, sizes, ones
        if zeros:
            found = [_zeros(sample(each)) for each in taken[: len(dtypes)]]
            columns[5] = tf.stack([_double(each) for each in found])
            columns[6] = tf.minimum(sizes, float(SAMPLE))
        return tf.stack(columns, 1)

    return traced(plainly, [*_specs(dtypes), *_DOUBLES], inlined=False)


def _specs(dtypes: tuple[Any, ...]) -> list[Any]:
    return [*(tf.TensorSpec([None], dtype) for dtype in dtypes), tf.TensorSpec([], tf.int64)]


def _zeros(values: Any) -> Any:
    """How many there are, as integers: to the arithmetic of TensorFlow on a CPU subnormal ones are zero."""
    integer, _, mask = _BITS[values.dtype.size]
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
        last = tf.where(bad, now, tf.constant(-1.0, tf.float64))
        first = tf.where(bad, -now, tf.constant(_NEVER, tf.float64))
        size = tf.size(value, out_type=tf.int64)
        every = (amax, last, first, inf, nan, zeros, size, size, 1, 0, 0)
        return tf.stack([_double(each) for each in every])

    return traced(counted, _specs((dtype,)), inlined=True)


def _double(value: Any) -> Any:
    return tf.cast(value, tf.float64) if tf.is_tensor(value) else tf.constant(value, tf.float64)


def _join(resource: Any, rows: Sequence[tuple[Any, int]], vectors: Any) -> None:
    """Join to each of some rows of a resource the vector of this number."""
    firsts, numbers = (tf.stack(each) for each in zip(*rows, strict=True))
    old = tf.raw_ops.ResourceGather(resource=resource, indices=firsts, dtype=tf.float64)
    more = tf.gather(vectors, numbers)
    by_maximum = tf.constant([True] * 3 + [False] * 8)
    new = tf.where(by_maximum, tf.maximum(old, more), old + more)
    tf.raw_ops.ResourceScatterUpdate(resource=resource, indices=firsts, updates=new)

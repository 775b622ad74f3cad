"""Measuring tensors where they are: inside the graph, on the device, without a call to the host.

A `Tap` keeps one small vector in a resource beside the model; graphs that are compiled by XLA may
read and assign it like any variable. The host reads it when the trace is flushed, and resets it.
Tensors of eager mode that lie in the host's memory are measured there at once, as integers: floats
of one sign have the order of their bits, and that is ten times faster than TensorFlow's operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import tensorflow as tf
from msgspec import Struct

from mpaudit.runtime.keras.attempt import Look
from mpaudit.runtime.keras.clock import Clock
from mpaudit.runtime.keras.octaves import Octaves
from mpaudit.runtime.keras.order import Order
from mpaudit.runtime.keras.peaks import Ring
from mpaudit.runtime.keras.runs import Calls
from mpaudit.runtime.keras.store import one_of_several
from mpaudit.runtime.keras.vector import (
    BITS,
    CALLED,
    COUNTS,
    FIRST,
    NEVER,
    RECENT,
    TENSORS,
    TICKS,
    TOGETHER,
    start,
    started,
)
from mpaudit.runtime.sampling import sampled

_INFINITY = {
    "float16": 0x7C00,
    "bfloat16": 0x7F80,
    "float32": 0x7F800000,
    "float64": 0x7FF0000000000000,
}
_NOTHING = frozenset[int]()
MEASURABLE = tuple(tf.dtypes.as_dtype(name) for name in _INFINITY)


class Numbers(Struct, frozen=True):
    """What a tap measured since it was last read; ticks are those of the `Clock`.

    `amax` is the largest finite magnitude, None if nothing was finite; `zeros` are counted in a
    sample of `zeros_of` elements; `tensors` counts what was measured, `calls` the calls of the
    layer in training and `others` the rest. `bad` are the bad ticks: of those that are a multiple of
    `vector.RECENT` apart, the last one. `replicas` of several are those that were bad at the first bad tick.
    """

    amax: float | None
    first_bad: int | None
    bad: frozenset[int]
    replicas: frozenset[int]
    inf: int
    nan: int
    zeros: int
    zeros_of: int
    elements: int
    tensors: int
    calls: int
    others: int

    @property
    def last_bad(self) -> int | None:
        """The last bad tick."""
        return max(self.bad, default=None)


def measurable(value: object) -> bool:
    """Whether `value` is a dense tensor of a floating dtype that a tap can read."""
    return isinstance(value, tf.Tensor) and value.dtype in MEASURABLE


class Tap:
    """Rolls up all tensors of one dtype that pass one place, in a vector as `vector` says."""

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
        self._place = clock.place("taps", lambda: start()[None])
        self._bad: dict[int | None, int] = {}  # the first bad tick of each replica on the host
        self._calls = Calls()
        self._host = start()
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
            self._host[CALLED] += (calls, others)
        else:
            self._calls.add(calls, others)

    def read(self) -> Numbers | None:
        """What came since the last read, None if nothing did. Waits for the device."""
        swept = self._place.swept(started)
        if not self._host[TENSORS] and not any(seen[TENSORS] for (seen,) in swept):
            return self._called()
        vector = self._host
        vector[0] = _float(self._top, self._dtype)
        self._host, self._top = start(), -1
        first, self._bad = self._bad, {}
        replicas = self._place.replicas
        for number, (seen,) in zip(replicas, swept, strict=True):
            if seen[FIRST] > NEVER:
                which = number if len(replicas) > 1 else None
                first[which] = min(first.get(which, -int(seen[FIRST])), -int(seen[FIRST]))
            greatest = numpy.maximum(vector[: COUNTS.start], seen[: COUNTS.start])
            vector = numpy.concatenate([greatest, vector[COUNTS] + seen[COUNTS]])
        vector[CALLED] += self._calls.read()
        return Numbers(
            None if vector[0] < 0 else float(vector[0]),
            None if vector[FIRST] == NEVER else int(-vector[FIRST]),
            frozenset(int(tick) for tick in vector[TICKS] if tick >= 0),
            frozenset(n for n, tick in first.items() if n is not None and tick == -vector[FIRST]),
            *(int(each) for each in vector[COUNTS]),
        )

    def _called(self) -> Numbers | None:
        """The same where nothing was measured, as in most steps: calls alone."""
        calls, others = self._calls.read()
        if self._host[-1] or self._host[-2]:
            calls, others = (int(each) for each in self._host[CALLED] + (calls, others))
            self._host = start()
        if not calls and not others:
            return None
        return Numbers(None, None, _NOTHING, _NOTHING, 0, 0, 0, 0, 0, 0, calls, others)

    def _looks(self, value: Any) -> list[Look]:
        """What is to be done with a tensor in a graph."""
        kept = [self._place.here, *([] if self.peaks is None else [self.peaks.here])]
        looks = [Look(TOGETHER, value, kept)]
        return looks if self.octaves is None else [*looks, self.octaves.look(value)]

    def _note_on_host(self, value: Any, calls: int, others: int) -> None:
        host = self._host
        if not self._clock.looks():
            host[CALLED] += (calls, others)
            return
        integer, _, mask = BITS[value.dtype.size]
        bits = numpy.asarray(memoryview(tf.bitcast(value, integer)))
        bits = numpy.bitwise_and(bits, bits.dtype.type(mask))
        infinity = _INFINITY[value.dtype.name]
        top = int(bits.max()) if bits.size else -1
        if top >= infinity:
            tick = self._clock.read()
            host[FIRST] = max(host[FIRST], -tick)
            host[TICKS][tick % RECENT] = tick
            bad = numpy.count_nonzero(bits == infinity), numpy.count_nonzero(bits > infinity)
            host[COUNTS][:2] += bad
            finite = bits < infinity
            top = int(bits.max(initial=0, where=finite)) if finite.any() else -1
            self._bad.setdefault(one_of_several(), tick)
            self._clock.alarm()
        self._top = max(self._top, top)
        zeros = bits.size - numpy.count_nonzero(bits)
        host[COUNTS][2:] += (zeros, bits.size, bits.size, 1, calls, others)
        if self.octaves is not None and sampled(self._clock.on_host()):
            self.octaves.note_on_host(value.numpy())
        if self.peaks is not None:
            self.peaks.note_on_host(_float(top, self._dtype))


def _float(bits: int, dtype: str) -> float:
    """The float of `dtype` with these bits (not negative); -1 for -1."""
    if bits < 0:
        return -1.0
    if dtype == "bfloat16":  # the upper half of a float32
        bits, dtype = bits << 16, "float32"
    integer = {"float16": numpy.int16, "float32": numpy.int32, "float64": numpy.int64}[dtype]
    return float(numpy.array([bits], integer).view(dtype)[0])

"""Measuring tensors where they are: inside the graph, on the device, without a call to the host.

A `Tap` keeps one small vector in a resource beside the model; graphs that are compiled by XLA may
read and assign it like any variable. The host reads it when the trace is flushed, and resets it.
Tensors of eager mode that lie in the host's memory are measured there at once, as integers: floats
of one sign have the order of their bits, and that is ten times faster than TensorFlow's operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy
import tensorflow as tf

from mpaudit.runtime.keras.attempt import Look
from mpaudit.runtime.keras.clock import Clock, sampled_at
from mpaudit.runtime.keras.octaves import Octaves, count_if_sampled
from mpaudit.runtime.keras.order import Order
from mpaudit.runtime.keras.peaks import Ring, raise_peak
from mpaudit.runtime.keras.runs import Calls
from mpaudit.runtime.keras.store import Store, one_of_several
from mpaudit.runtime.sampling import sampled

_NEVER = -1.0e300
_EVERY = 16  # attempts between two counts of the zeros of a tensor inside a graph
_BITS = {2: (tf.int16, 0x7FFF), 4: (tf.int32, 0x7FFFFFFF), 8: (tf.int64, 0x7FFFFFFFFFFFFFFF)}
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


class _Places(NamedTuple):
    """The resources of a tap; None for what it lacks."""

    vector: Any
    octaves: Any
    peaks: Any

    def captured(self, graph: Any) -> _Places:
        """The same inside a graph whose loops may only use what they have captured."""
        return _Places(*(None if each is None else graph.capture(each) for each in self))


class Tap:
    """Rolls up all tensors of one dtype that pass one place.

    The vector: largest magnitude, last bad tick, minus the first bad tick (all joined by maximum);
    then the fields of `Numbers` from `inf` on (all joined by sum).
    """

    __slots__ = (
        *("_bad", "_calls", "_clock", "_dtype", "_host", "_order", "_store", "_top"),
        *("octaves", "peaks"),
    )

    def __init__(
        self, clock: Clock, dtype: str, octaves: Octaves | None = None, peaks: Ring | None = None
    ) -> None:
        self.octaves = octaves
        self.peaks = peaks
        self._clock = clock
        self._dtype = dtype
        self._store = Store(tf.float64, _start)
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
            _record(self._clock, self._places(), value)

    def later(self) -> Callable[[Any], Any]:
        """`note` for the backward pass of what is computed now.

        It gives what something has to wait for, or None. The gradient of a loop may only use resources
        that the loop itself has captured: they are captured here.
        """
        if tf.executing_eagerly():
            return self.note
        graph = tf.compat.v1.get_default_graph()
        places = self._places().captured(graph)
        own = [graph.capture(each) for each in self._clock.handles]

        def note(value: Any) -> Any:
            return self._order.run(lambda: _record(self._clock, places, value, own))

        return note

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
        replicas = self._store.replicas
        for number, seen in zip(replicas, self._store.swap(lambda _: _start()), strict=True):
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

    def _places(self) -> _Places:
        octaves = None if self.octaves is None else self.octaves.handle
        peaks = None if self.peaks is None else self.peaks.handle
        return _Places(self._store.here, octaves, peaks)

    def _note_on_host(self, value: Any, calls: int, others: int) -> None:
        host = self._host
        if not self._clock.looks():
            host[-2:] += (calls, others)
            return
        integer, mask = _BITS[value.dtype.size]
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
    return numpy.array([-1.0, -1.0, _NEVER, 0, 0, 0, 0, 0, 0, 0, 0], numpy.float64)


def _float(bits: int, dtype: str) -> float:
    """The float of `dtype` with these bits (not negative); -1 for -1."""
    if bits < 0:
        return -1.0
    if dtype == "bfloat16":  # the upper half of a float32
        bits, dtype = bits << 16, "float32"
    integer = {"float16": numpy.int16, "float32": numpy.int32, "float64": numpy.int64}[dtype]
    return float(numpy.array([bits], integer).view(dtype)[0])


def _record(clock: Clock, places: _Places, value: Any, own: Any = None) -> Any:
    """Join what `value` holds to the vector, if this step is looked at; something to wait for."""
    there = tuple(each is not None for each in places)
    handles = [each for each in places if each is not None]
    return clock.look(Look(_recorder(there), value, handles), own)


@cache
def _recorder(there: tuple[bool, ...]) -> Callable[..., Any]:
    """The function that joins; `there` says which of the places there are."""

    def record(value: Any, tick: Any, *handles: Any) -> Any:
        each = iter(handles)
        places = _Places(*(next(each) if known else None for known in there))
        more = _look(places, tick, tf.reshape(value, [-1]))
        with tf.control_dependencies([_join(places.vector, more)]):
            return more[1] >= 0

    return record


def _look(places: _Places, tick: Any, value: Any) -> Any:
    """The vector of one tensor, and what else is kept of it.

    On a CPU the largest magnitude is found as an integer, in one pass; everything else is counted
    only where there is something bad, or in a sample. GPUs have no such operation for integers.
    """

    def closely() -> Any:
        vector = _counted(value, tick)
        done = []
        if places.octaves is not None:
            done.append(count_if_sampled(places.octaves, tick, value))
        with tf.control_dependencies(done):
            return tf.identity(vector)

    if tf.config.list_logical_devices("GPU"):
        measured = closely()
    else:
        integer, mask = _BITS[value.dtype.size]
        bits = tf.bitwise.bitwise_and(tf.bitcast(value, integer), tf.constant(mask, integer))
        top = tf.reduce_max(bits)
        infinity = tf.constant(_INFINITY[value.dtype.name], integer)
        size = tf.size(value, out_type=tf.int64)
        plain = (top < infinity) & (top >= 0) & (tick % _EVERY > 0)
        if places.octaves is not None:
            plain &= ~sampled_at(tick)
        measured = tf.cond(
            plain,
            lambda: _vector(tf.bitcast(top, value.dtype), size=size),
            closely,
        )
    if places.peaks is None:
        return measured
    with tf.control_dependencies([raise_peak(places.peaks, tick, measured[0])]):
        return tf.identity(measured)


def _counted(value: Any, tick: Any) -> Any:
    """The vector of one tensor, with everything counted."""
    magnitude = tf.where(tf.math.is_finite(value), tf.abs(value), tf.constant(-1, value.dtype))
    amax = tf.maximum(tf.reduce_max(magnitude), tf.constant(-1, value.dtype))
    kinds = (tf.math.is_inf(value), tf.math.is_nan(value), value == tf.zeros([], value.dtype))
    inf, nan, zeros = (tf.reduce_sum(tf.cast(kind, tf.float32)) for kind in kinds)
    now = tf.cast(tick, tf.float64)
    bad = inf + nan > 0
    last = tf.where(bad, now, tf.constant(-1.0, tf.float64))
    first = tf.where(bad, -now, tf.constant(_NEVER, tf.float64))
    size = tf.size(value, out_type=tf.int64)
    return _vector(amax, last, first, inf, nan, zeros, size, size)


def _vector(
    amax: Any = -1.0,
    last: Any = -1.0,
    first: Any = _NEVER,
    inf: Any = 0,
    nan: Any = 0,
    zeros: Any = 0,
    zeros_of: Any = 0,
    size: Any = 0,
) -> Any:
    """What a tap's vector is joined with, of one tensor; its calls are counted elsewhere."""
    every = (amax, last, first, inf, nan, zeros, zeros_of, size, 1, 0, 0)
    return tf.stack([_double(each) for each in every])


def _double(value: Any) -> Any:
    return tf.cast(value, tf.float64) if tf.is_tensor(value) else tf.constant(value, tf.float64)


def _join(handle: Any, more: Any) -> Any:
    old = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float64)
    by_maximum = tf.constant([True] * 3 + [False] * 8)
    new = tf.where(by_maximum, tf.maximum(old, more), old + more)
    return tf.raw_ops.AssignVariableOp(resource=handle, value=new)

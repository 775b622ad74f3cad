"""Every attempt to step: by which optimizer, at which loss scale, applied or skipped.

A ledger on the device gets one row per attempt, also from inside a compiled graph; the host reads
it when the trace is flushed.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy
import tensorflow as tf

from mpaudit.finding import Span
from mpaudit.runtime.keras.alike import Alike
from mpaudit.runtime.keras.bad_loss import Lost
from mpaudit.runtime.keras.clock import Clock
from mpaudit.runtime.keras.family import Family
from mpaudit.runtime.keras.identity import ByObject
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.place import place
from mpaudit.runtime.keras.store import replica, resource, unseen
from mpaudit.runtime.progress import Progress

ROOM = 4096
"""Rows of the ledger: how many attempts can happen between two reads without losing any."""

_COLUMNS = 5  # index of the optimizer, applied, scale, whether the loss is known, the loss


class Taken(NamedTuple):
    """Of what gradients were taken: its dtype, where, and whether a loss scale was put in after that."""

    dtype: str
    at: Span | None
    scaled: bool


class Settled(NamedTuple):
    """The outcome of an attempt, None for what is not known of it; `at` is where the optimizer is told."""

    optimizer: int
    step: int
    applied: bool | None
    loss: float | None
    at: Span | None


class Steps:
    """The attempts of all optimizers, in order.

    `on_apply` is told of every attempt that Python sees (in a graph: once, when it is traced)
    before it happens: of which Keras, the optimizer, the gradients, the variables; then `on_applied`
    is. `on_end` is told when one in eager mode is over, `on_settled` when the host knows how.
    """

    def __init__(self, patches: Patches, clock: Clock) -> None:
        self.on_apply: Callable[[Family, Any, Sequence[Any], Sequence[Any]], None] = lambda *_: None
        self._patches = patches
        self._tracer = patches.tracer
        self._clock = clock
        self._ledger: Any = None
        self._indices = ByObject[int]()
        self._scales: dict[int, Any] = {}
        self._read = 0  # attempts handed to the tracer so far
        self.on_end: Callable[[], None] = lambda: None
        self.on_applied: Callable[[], None] = lambda: None
        self.on_settled: Callable[[Settled], None] | None = None
        self.on_start: Callable[[Family, Sequence[Any]], None] = lambda *_: None
        self._places: dict[int, Span] = {}
        self.over = False  # no attempt will come any more
        self.scaled = False  # whether a loss was multiplied by a loss scale
        self._settled: dict[int, tuple[int, bool | None, float | None, int]] = {}
        self._loss: tuple[Any, Taken] | None = None  # the last one that gradients were taken of
        self._losses: dict[int, Taken] = {}  # of each optimizer
        self._progress = Progress(patches.tracer)
        self._bad: list[tuple[int, int, float]] = []  # ticks, optimizers and losses of the interval
        self._inside = threading.local()
        self._inner: list[int] = []
        self.time = 0.0  # in seconds, when the host last saw that something is over

    def follow(self, family: Family) -> None:
        """Watch every optimizer of one Keras from now on."""
        for kind in (*family.plain, *family.scaling):
            self._patches.wrap(kind, family.apply, partial(self._around_apply, family))

    def _around_apply(self, family: Family, original: Call) -> Call:
        def apply(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            nested = id(optimizer) in self._inner or getattr(self._inside, "apply", False)
            if nested:  # of the inner optimizer, or through super()
                return original(optimizer, *args, **kwargs)
            args, kwargs = family.listed(args, kwargs)
            before: Any = None
            with self._patches.guarded("optimizer"):
                grads, variables = family.pairs(optimizer, (args, kwargs))
                self.on_start(family, variables)
                self.on_apply(family, optimizer, grads, variables)
                self.on_applied()
                if (at := place("apply_gradients", "apply", "fit", "train_on_batch")) is not None:
                    self._tracer.stepped(self.index(optimizer), at)
                    self._places.setdefault(self.index(optimizer), at)
                before = self._before(family, optimizer) if grads else None
            self._inside.apply = True
            inner = id(getattr(optimizer, "inner_optimizer", None))
            self._inner.append(inner)  # replicas apply it in threads of their own
            try:
                result = original(optimizer, *args, **kwargs)
            finally:
                self._inside.apply = False
                self._inner.remove(inner)
            if before is not None:
                with self._patches.guarded("optimizer step"):
                    self._after(family, optimizer, *before)
                    if tf.executing_eagerly():
                        self.on_end()
            return result

        return apply

    def taken(self, loss: Any, at: Span | None, *, scaled: bool) -> None:
        """Gradients are taken at a place of `loss`, or of what a loss scale makes of it if `scaled`."""
        if tf.is_tensor(loss) and loss.shape.rank == 0 and loss.dtype.is_floating:
            self._loss = loss, Taken(loss.dtype.name, at, scaled)

    def _before(self, family: Family, optimizer: Any) -> tuple[Any, Any] | None:
        """Loss scale and progress before the attempt, which all replicas make together."""
        if replica() or unseen():
            return None
        scale = tf.cast(self._scale_in_force(family, optimizer), tf.float64)
        return scale, family.progress(optimizer)

    def _scale_in_force(self, family: Family, optimizer: Any) -> Any:
        """The scale of this attempt.

        An optimizer that makes the variable in its first attempt has none yet; a graph traced then
        would keep the first scale for ever, so that the value after each attempt is kept beside it.
        """
        if (scale := family.scale(optimizer)) is not None:
            return tf.identity(scale)
        index = self.index(optimizer)
        if index not in self._scales:
            with tf.init_scope():
                start = tf.constant(family.start(optimizer)[0], tf.float32)
                self._scales[index] = resource(start)
        return tf.raw_ops.ReadVariableOp(resource=self._scales[index], dtype=tf.float32)

    def _after(self, family: Family, optimizer: Any, scale: Any, progress: Any) -> None:
        index = self.index(optimizer)
        outcome = family.applied(optimizer, progress, family.progress(optimizer))
        applied = tf.cast(outcome, tf.float64)
        if index in self._scales:
            now = tf.cast(family.scale(optimizer), tf.float32)
            tf.raw_ops.AssignVariableOp(resource=self._scales[index], value=now)
        if self._ledger is None:
            with tf.init_scope():
                self._ledger = resource(tf.zeros([ROOM, _COLUMNS], tf.float64))
        taken, self._loss = self._loss, None
        loss = None if taken is None else taken[0]
        here = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        alone = tf.distribute.get_strategy().num_replicas_in_sync == 1
        known = alone and loss is not None and getattr(loss, "graph", None) is here
        losses = (1.0, tf.cast(loss, tf.float64)) if known else (0.0, 0.0)
        if taken is not None:
            self._losses[index] = taken[1]
        row = tf.stack([tf.constant(index, tf.float64), applied, scale, *losses])
        tick = self._clock.now()
        tf.raw_ops.ResourceScatterUpdate(resource=self._ledger, indices=tick % ROOM, updates=row)
        self._clock.unless(outcome)
        self._clock.advance()

    def index(self, optimizer: Any) -> int:
        """The number of an optimizer."""
        found = self._indices.get(optimizer)
        if found is None:
            self._tracer.claims.used("keras")
            found = self._indices.put(optimizer, self._tracer.optimizer(type(optimizer).__name__))
        return found

    def attempts(self, optimizer: Any) -> int:
        """How many attempts of an optimizer there have been. Waits for the device."""
        index = self.index(optimizer)
        told = self._tracer.step(index)
        if self._ledger is None:
            return told
        with tf.init_scope():
            now = self._clock.read()
            ledger = tf.raw_ops.ReadVariableOp(resource=self._ledger, dtype=tf.float64).numpy()
        since = numpy.arange(max(self._read, now - ROOM), now) % ROOM
        return told + int((ledger[since, 0] == index).sum())

    def seen(self, now: float) -> None:
        """The host sees, at a time in seconds, that what it started is over."""
        if self._ledger is not None and self._progress.waits:
            with tf.init_scope():
                self._progress.began(self._clock.read(), now)
        self.time = now

    @property
    def waits(self) -> bool:
        """Whether the host has not seen yet that an attempt is over."""
        return self._progress.waits

    def drain(self) -> range:
        """Tell the tracer of the attempts since the last time; returns their ticks."""
        if self._ledger is None:
            return range(0)
        with tf.init_scope():
            now = self._clock.read()
            ledger = tf.raw_ops.ReadVariableOp(resource=self._ledger, dtype=tf.float64).numpy()
        ticks, self._read = range(self._read, now), now
        kept = max(ticks.start, now - ROOM)
        rows = ledger[numpy.maximum(numpy.arange(ticks.start, now), kept) % ROOM].tolist()
        self._settled.clear()
        self._bad.clear()
        attempts = Counter(int(row[0]) for row in rows)
        steps = {index: self._tracer.attempted(index, n) for index, n in attempts.items()}
        alike = Alike(self._tracer)
        for tick, (number, applied, scale, has_loss, loss) in zip(ticks, rows, strict=True):
            index, known = int(number), tick >= kept
            step, steps[index] = steps[index], steps[index] + 1
            outcome = bool(applied) if known else None
            in_force = scale if known and not math.isnan(scale) else None
            self._settled[tick] = step, outcome, in_force, index
            alike.settled(index, step, outcome, in_force)
            value = loss if known and has_loss else None
            if value is not None and not math.isfinite(value):
                self._bad.append((tick, index, value))
            if value is not None and index == 0:
                self._progress.add(value)
            if self.on_settled is not None:
                self.on_settled(Settled(index, step, outcome, value, self._places.get(index)))
        alike.tell()
        self._progress.tell(now, self.time)
        return ticks

    def step(self, tick: int) -> int:
        """The attempt, counted for its own optimizer, that happened at a tick."""
        return self._settled[tick][0] if tick in self._settled else self._tracer.step()

    def scale(self, tick: int) -> float | None:
        """The loss scale in force at a tick of the last interval, else the last one that was.

        None while no loss was multiplied by it: gradients are what they are, whatever an optimizer
        divides them by.
        """
        if not self.scaled:
            return None
        return self._settled[tick][2] if tick in self._settled else self._tracer.scale()

    def ended(self, tick: int) -> bool:
        """Whether the attempt at a tick is over."""
        return tick < self._read

    def bad_losses(self) -> Iterator[Lost]:
        """The losses of the last interval that are not finite, and whose place is known."""
        for tick, index, value in self._bad:
            taken = self._losses.get(index)
            if taken is not None and taken.at is not None:
                yield Lost(tick, value, taken.dtype, taken.at, taken.scaled)

    def skipped(self, ticks: range) -> Iterator[tuple[int, int]]:
        """The ticks of the last interval whose attempt was skipped, each with its optimizer's number."""
        for tick in ticks:
            if tick in self._settled and self._settled[tick][1] is False:
                yield tick, self._settled[tick][3]

    def begun(self, tick: int) -> int:
        """The first tick, of the last interval, behind the attempt before of the same optimizer."""
        settled, first = self._settled, tick
        while first - 1 in settled and settled[first - 1][3] != settled[tick][3]:
            first -= 1
        return first

    def applied(self, tick: int) -> bool | None:
        """Whether the attempt at a tick of the last interval was applied, None if not known."""
        return self._settled[tick][1] if tick in self._settled else None

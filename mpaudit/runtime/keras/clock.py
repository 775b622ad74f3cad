"""What a graph keeps on the device: resources, and the clock by which everything is dated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import zip_longest
from typing import Any

import tensorflow as tf

from mpaudit.runtime.keras.attempt import Asked, Attempt, Look, flush, look_alone
from mpaudit.runtime.keras.order import runs_by_itself, vectorised
from mpaudit.runtime.keras.store import Store, replica
from mpaudit.runtime.sampling import AFTER, COUNTED, FIRST, sampled

_POWERS = tuple(2**n for n in range(COUNTED.bit_length()))


class Clock:
    """Counts attempts to step, of all optimizers together, on the device.

    Tensors are looked at in each `every`-th of them, in the first ones, in those in which numbers are
    counted, and in some from one on in which something went wrong, see `Sampling`. Whether they are is
    worked out once for each attempt, when the one before it is over. The resources are made when they
    are first needed: a script may still set up its devices after the import.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self._ticks = Store(tf.int64, lambda: self._first(self._ticks, 0))
        self._looking = Store(tf.int64, lambda: self._first(self._looking, [FIRST, 1]))
        self._host: int | None = None
        self._until = FIRST

    @property
    def handle(self) -> Any:
        """The resource that holds the tick."""
        _ = self.looking  # a replica has both
        return self._ticks.here

    @property
    def looking(self) -> Any:
        """The resource that holds the tick before which all is looked at, and 1 if the attempt that is
        being prepared is, else 0; None if all are."""
        return self._looking.here if self.every > 1 else None

    def now(self) -> Any:
        """The tick as a tensor: of the attempt that is being prepared."""
        return tick_of(self.handle)

    def advance(self) -> None:
        """An attempt of all replicas is over."""
        if not tf.executing_eagerly():
            flush()
        for ticks, looking in self._everywhere():
            one = tf.constant(1, tf.int64)
            tf.raw_ops.AssignAddVariableOp(resource=ticks, value=one)
            if looking is not None:
                self._decide(tick_of(ticks), looking)
        self._host = None

    def _everywhere(self) -> Iterator[tuple[Any, Any]]:
        """The resources of each replica, where they are."""
        handles = [(self.handle, self.looking)]
        if len(all_ticks := list(self._ticks)) > 1:
            handles = list(zip_longest(all_ticks, self._looking))
        for ticks, looking in handles:
            with tf.device(ticks.device) if len(handles) > 1 else nullcontext():
                yield ticks, looking

    def _decide(self, tick: Any, looking: Any) -> None:
        """Whether the attempt at this tick is looked at."""
        until = _state(looking)[0]
        looks = (tick < until) | (tick % self.every == 0) | sampled_at(tick)
        state = tf.stack([until, tf.cast(looks, tf.int64)])
        tf.raw_ops.AssignVariableOp(resource=looking, value=state)

    @staticmethod
    def _first(store: Store, start: Any) -> Any:
        """What a further replica begins with: it is as late there as everywhere."""
        held = store.swap(lambda held: held)
        return held[0] if held else start

    def read(self) -> int:
        """The tick, read by the host."""
        with tf.init_scope():
            self._host = int(self.now())
        return self._host

    def on_host(self) -> int:
        """The same without a read where nothing has run on the device since the last one."""
        return self.read() if self._host is None else self._host

    def ran(self) -> None:
        """Something ran on the device that may have made attempts."""
        self._host = None

    def looks(self) -> bool:
        """Whether the host looks at what is computed now."""
        if self.every == 1:
            return True
        tick = self.on_host()
        return tick < self._until or tick % self.every == 0 or sampled(tick)

    def look(self, look: Look, own: Sequence[Any] | None = None) -> Any:
        """Have this done in a graph, in attempts that are looked at; gives what something has to wait
        for, or None.

        `own` are the `handles` of the clock if the graph may only use what it has captured.
        """
        own = self.handles if own is None else own
        if (attempt := self._attempt(own)) is None:
            return look_alone(_ask, own, look)
        attempt.look(look)
        return None

    def look_now(self, looks: list[Look]) -> None:
        """Have this done in a graph, before what it does next, in attempts that are looked at."""
        if looks and (attempt := self._attempt(self.handles)) is not None:
            attempt.look_now(looks)

    def _attempt(self, own: Sequence[Any]) -> Attempt | None:
        if not runs_by_itself() or vectorised():
            return None
        return Attempt.here((id(self), replica()), lambda: _ask(*own))

    @property
    def handles(self) -> list[Any]:
        """`handle`, and `looking` if there is any."""
        return [self.handle] if self.looking is None else [self.handle, self.looking]

    def unless(self, applied: Any) -> None:
        """Something went wrong in an attempt that was not applied: the next ones are looked at."""
        if self.every == 1:
            return
        if not tf.executing_eagerly():
            for ticks, looking in self._everywhere():
                _alarmed(looking, tick_of(ticks), ~applied)
        elif "CPU" in applied.device and not bool(applied):
            self.alarm()

    def alarm(self) -> None:
        """The host saw that something went wrong."""
        self._until = max(self._until, self.on_host() + 1 + AFTER)


def tick_of(handle: Any) -> Any:
    """The tick that a clock's resource holds, as a tensor."""
    tick = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.int64)
    tick.set_shape([])
    return tick


def _ask(handle: Any, looking: Any = None) -> Asked:
    """What is known of the attempt in a graph."""
    tick = tick_of(handle)
    if looking is None:
        return Asked(None, tick, None)
    return Asked(_state(looking)[1] > 0, tick, lambda bad: _alarmed(looking, tick, bad))


def _state(looking: Any) -> Any:
    state = tf.raw_ops.ReadVariableOp(resource=looking, dtype=tf.int64)
    state.set_shape([2])
    return state


def _alarmed(looking: Any, tick: Any, bad: Any) -> Any:
    """`Clock.alarm` inside a graph, where `bad` is true."""
    state = _state(looking)
    later = tf.where(bad, tf.maximum(state[0], tick + 1 + AFTER), state[0])
    return tf.raw_ops.AssignVariableOp(resource=looking, value=tf.stack([later, state[1]]))


def sampled_at(tick: Any) -> Any:
    """`sampling.sampled` inside a graph."""
    power = tf.bitwise.bitwise_and(tick, tick - 1) == 0
    return tf.where(tick < COUNTED, power, tick % COUNTED == 0)


def ordinal_of(tick: Any) -> Any:
    """How many sampled ticks there are before this sampled one."""
    powers = tf.constant(_POWERS, tf.int64)
    return tf.reduce_sum(tf.cast(tick >= powers, tf.int64)) + tick // COUNTED

"""The clock by which everything is dated, and which says what is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import tensorflow as tf

from mpaudit.runtime.keras.attempt import Attempt, Look, decide_alone, flush, look_alone
from mpaudit.runtime.keras.order import runs_by_itself, vectorised
from mpaudit.runtime.keras.parcel import Asked
from mpaudit.runtime.keras.shelf import Place, Shelf
from mpaudit.runtime.keras.store import Store, replica
from mpaudit.runtime.keras.tick import START, advanced, settled, tick_of
from mpaudit.runtime.sampling import AFTER, FIRST, sampled


class Clock:
    """Counts attempts to step, of all optimizers together, on the device.

    Tensors are looked at in each `every`-th of them, in the first ones, in those in which numbers are
    counted, and in some from one on in which something went wrong, see `Sampling`. The resources are
    made when they are first needed: a script may still set up its devices after the import.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self._states = Store(tf.int64, self._start)
        self._shelves: dict[object, Shelf] = {}
        self._host: int | None = None
        self._until = FIRST

    @property
    def handle(self) -> Any:
        """The resource that holds what `tick` knows of."""
        return self._states.here

    def place(self, kind: object, start: Callable[[], Any]) -> Place:
        """Rows on the device for what is dated by this clock, those of one kind beside each other."""
        if kind not in self._shelves:
            self._shelves[kind] = Shelf(start())
        return self._shelves[kind].place()

    def now(self) -> Any:
        """The tick as a tensor: of the attempt that is being prepared."""
        if not tf.executing_eagerly() and (attempt := self._attempt(self.handle)) is not None:
            return attempt.tick
        return tick_of(self.handle)

    def advance(self) -> None:
        """An attempt of all replicas is over."""
        chosen = not tf.executing_eagerly() and flush(decides=True)
        for handle in self._everywhere():
            if self.every > 1 and not chosen:
                decide_alone(handle, self.every)
            advanced(handle)
        self._host = None

    def _everywhere(self) -> Iterator[Any]:
        """The resource of each replica, where it is."""
        handles = [self.handle]
        if len(states := list(self._states)) > 1:
            handles = states
        for handle in handles:
            with tf.device(handle.device) if len(handles) > 1 else nullcontext():
                yield handle

    def _start(self) -> Any:
        """What a further replica begins with: it is as late there as everywhere."""
        held = self._states.swap(lambda held: held)
        return held[0] if held else START

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

    def look(self, look: Look, own: Any = None) -> Any:
        """Have this done in a graph, in attempts that are looked at; gives what something has to wait
        for, or None.

        `own` is the `handle` of the clock if the graph may only use what it has captured.
        """
        own = self.handle if own is None else own
        if (attempt := self._attempt(own)) is None:
            return look_alone(self.every, own, look)
        attempt.look(look)
        return None

    def look_now(self, looks: list[Look]) -> None:
        """Have this done in a graph, before what it does next, in attempts that are looked at."""
        if looks and (attempt := self._attempt(self.handle)) is not None:
            attempt.look_now(looks)

    def _attempt(self, own: Any) -> Attempt | None:
        if not runs_by_itself() or vectorised():
            return None
        return Attempt.here((id(self), replica()), partial(Asked.of, own, self.every))

    def unless(self, applied: Any) -> None:
        """Something went wrong in an attempt that was not applied: the next ones are looked at."""
        if self.every == 1 or tf.get_static_value(applied):
            return
        if not tf.executing_eagerly():
            for handle in self._everywhere():
                settled(handle, tick_of(handle), applied)
        elif "CPU" in applied.device and not bool(applied):
            self.alarm()

    def alarm(self) -> None:
        """The host saw that something went wrong."""
        self._until = max(self._until, self.on_host() + 1 + AFTER)

"""Keras 3 on TensorFlow: the parts of the probe, put together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mpaudit.runtime.advice import Advice
from mpaudit.runtime.keras.clock import Clock
from mpaudit.runtime.keras.events import Events
from mpaudit.runtime.keras.layers import Layers
from mpaudit.runtime.keras.octaves import SLOTS
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.peaks import ROOM
from mpaudit.runtime.keras.register import Register
from mpaudit.runtime.keras.remedy import Remedy
from mpaudit.runtime.keras.rollup import Rollup
from mpaudit.runtime.keras.steps import Steps
from mpaudit.runtime.keras.trial import Trial
from mpaudit.runtime.rehearsal import Plan
from mpaudit.runtime.sampling import COUNTED
from mpaudit.runtime.tracer import Tracer

_ROOM = min((SLOTS - 1) * COUNTED, ROOM // 2)
"""Calls of functions between two reads, at most; many of them make one attempt each."""

LIGHT = "the numbers in layers, and the gradients between them"
"""What `--light` does not look at here: dtypes and policies of layers cost a graph nothing."""


def watch(
    tracer: Tracer, rehearsal: Plan | None = None, remedy: Advice | None = None
) -> Callable[[], None]:
    """Wrap what has to be wrapped; the function that comes back drains, and puts it all back."""
    asked = tracer.sampling
    tracer.note("versions", {**(tracer.fact("versions") or {}), "tensorflow": tf.__version__})
    tracer.note("sampling", asked.fact(asked.every or 1, LIGHT))
    patches, clock, register = Patches(tracer), Clock(asked.every or 1), Register()
    layers, steps = Layers(patches, clock, register), Steps(patches, clock)
    events = Events(patches, layers, register, steps)
    drain = _Drain(patches, clock, Rollup(tracer, register), steps, events)
    steps.on_apply = events.applied
    steps.on_end = drain.look
    layers.on_call = events.called
    parts: list[Any] = [layers, steps, events, drain]
    if remedy is not None:  # last: the others are to see what it changes
        parts.append(Remedy(remedy, patches, register))
    for part in parts:
        with patches.guarded("installing the Keras probe"):
            part.install()
    tracer.draining.append(drain)

    def uninstall() -> None:
        drain.close()
        tracer.draining.remove(drain)
        patches.restore()

    if rehearsal is not None and rehearsal.kind == "trial":
        drain.trial = Trial(rehearsal.steps, tracer, uninstall)
    return uninstall


class _Drain:
    """Brings what the device holds to the tracer; a `tf.function` that returns is an occasion."""

    def __init__(
        self, patches: Patches, clock: Clock, rollup: Rollup, steps: Steps, events: Events
    ) -> None:
        self.trial: Trial | None = None
        self._patches = patches
        self._clock = clock
        self._rollup = rollup
        self._steps = steps
        self._events = events
        self._lock = threading.Lock()
        self._calls = 0
        self._drained = False

    def install(self) -> None:
        """Look after every outermost call of a compiled function whether a flush is due."""
        compiled = type(tf.function(lambda: None))
        self._patches.wrap(compiled, "__call__", self._around_function)

    def __call__(self) -> None:
        if not self._patches.active or not self._lock.acquire(blocking=False):
            return
        try:
            with self._patches.guarded("reading the taps"):
                self._calls, self._drained = 0, True
                self._events.drain()
                self._rollup.drain(self._steps, self._steps.drain())
        finally:
            self._lock.release()

    def close(self) -> None:
        """Nothing comes any more: hand over the rest."""
        self._steps.over = True
        self()
        self._rollup.close()

    def look(self) -> None:
        """Flush if that is due; read what the device holds before there is no room for more."""
        self._clock.ran()
        self._steps.seen(time.monotonic())
        self._calls += 1
        if self._calls >= (_ROOM if self._drained else COUNTED):
            self()
        self._patches.tracer.flush_if_due()
        if self.trial is not None and self._clock.on_host() >= self.trial.steps:
            self.trial.end()

    def _around_function(self, original: Call) -> Call:
        def call(function: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(function, *args, **kwargs)
            if tf.executing_eagerly():
                with self._patches.guarded("after a function"):
                    self.look()
            return result

        return call

"""Keras on TensorFlow: the parts of the probe, put together."""

from __future__ import annotations

import threading
import time
from typing import Any, ClassVar

import tensorflow as tf

from mpaudit.runtime import tracer as tracers
from mpaudit.runtime.advice import Advice
from mpaudit.runtime.keras.attempt import Ends, timeless
from mpaudit.runtime.keras.batch import Batch
from mpaudit.runtime.keras.built import Built
from mpaudit.runtime.keras.carried import Carriers
from mpaudit.runtime.keras.casts import Casts
from mpaudit.runtime.keras.clock import Clock
from mpaudit.runtime.keras.events import Events
from mpaudit.runtime.keras.family import Family
from mpaudit.runtime.keras.layers import Layers
from mpaudit.runtime.keras.message import Messages
from mpaudit.runtime.keras.narration import Narration
from mpaudit.runtime.keras.output import Outputs, carry
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.peaks import ROOM
from mpaudit.runtime.keras.recorder import Recorder
from mpaudit.runtime.keras.register import Register
from mpaudit.runtime.keras.remedy import Remedy
from mpaudit.runtime.keras.replica_thread import ReplicaThreads
from mpaudit.runtime.keras.rollup import Rollup
from mpaudit.runtime.keras.rounding import Roundings
from mpaudit.runtime.keras.rows import SLOTS
from mpaudit.runtime.keras.steps import Steps
from mpaudit.runtime.keras.store import replica
from mpaudit.runtime.keras.sweep import at_once
from mpaudit.runtime.keras.trial import Trial
from mpaudit.runtime.rehearsal import Plan
from mpaudit.runtime.sampling import COUNTED, EVERY
from mpaudit.runtime.tracer import Tracer

_ROOM = min((SLOTS - 1) * COUNTED, ROOM // 2)
"""Calls of functions between two reads, at most; many of them make one attempt each."""

LIGHT = "the numbers in layers, and the gradients between them"
"""What `--light` does not look at here: dtypes and policies of layers cost a graph nothing."""


class Watch:
    """All parts of one probe, which follow one Keras or both."""

    _running: ClassVar[Watch | None] = None

    @classmethod
    def of(cls, tracer: Tracer) -> Watch | None:
        """What watches for `tracer` already."""
        found = cls._running
        return found if found is not None and found._tracer is tracer else None

    def __init__(
        self, tracer: Tracer, rehearsal: Plan | None = None, remedy: Advice | None = None
    ) -> None:
        self._tracer = tracer
        asked = tracer.sampling
        every = asked.every or (1 if asked.light else EVERY)
        tracer.claims.claim("keras", sampling=asked.fact(every, LIGHT))
        self._patches = patches = Patches(tracer, within=timeless)
        clock, register, narration = Clock(every), Register(), Narration(tracer, replica)
        self._casts = casts = Casts(patches, Batch())
        outputs, steps = Outputs(patches), Steps(patches, clock)
        layers = Layers(patches, clock, register, casts, outputs)
        built = Built(patches, register, narration)
        events = Events(patches, layers, built, steps, narration, outputs)
        self._drain = _Drain(patches, clock, Rollup(tracer, register, every), steps, narration)
        steps.on_apply = events.applied
        self._recorder = None
        if rehearsal is not None and rehearsal.kind != "trial":
            self._recorder = self._drain.ends = Recorder(rehearsal, patches, steps)
        steps.on_applied = casts.over
        tracer.draining.append(casts.drain)
        steps.on_end = self._drain.look
        layers.on_call = built.called
        self._parts: list[Any] = [layers, steps, built, events]
        if remedy is not None:  # last: the others are to see what it changes
            self._parts.append(Remedy(remedy, patches, register))
        if self._recorder is not None:
            self._parts.append(self._recorder)
            steps.on_start = self._recorder.began
        by_itself = (Roundings, Ends, ReplicaThreads, Messages)
        carriers = Carriers(patches, outputs.inside, carry)
        for part in (
            events,
            outputs,
            carriers,
            *(each(patches) for each in by_itself),
            self._drain,
        ):
            with patches.guarded("installing the Keras probe"):
                part.install()
        tracer.draining.append(self._drain)
        if rehearsal is not None and rehearsal.kind == "trial":
            self._drain.ends = Trial(rehearsal.steps, tracer, self.end)
        self._followed: set[str] = set()
        Watch._running = self

    def follow(self, family: Family) -> None:
        """Wrap what has to be wrapped of one Keras, once."""
        if family.name in self._followed:
            return
        self._followed.add(family.name)
        versions = self._tracer.fact("versions") or {}
        found = {family.name: family.version, "tensorflow": tf.__version__}
        self._tracer.note("versions", {**versions, **found})
        for part in self._parts:
            with self._patches.guarded("installing the Keras probe"):
                part.follow(family)
        with self._patches.guarded("installing the Keras probe"):
            self._casts.follow(family)

    def end(self) -> None:
        """Hand over the rest, and put everything back."""
        Watch._running = None
        self._drain.close()
        if self._recorder is not None:
            self._recorder.write()
        self._tracer.draining.remove(self._drain)
        self._casts.drain()
        self._tracer.draining.remove(self._casts.drain)
        self._patches.restore()


class _Drain:
    """Brings what the device holds to the tracer; a `tf.function` that returns is an occasion."""

    def __init__(
        self, patches: Patches, clock: Clock, rollup: Rollup, steps: Steps, narration: Narration
    ) -> None:
        self.ends: Trial | Recorder | None = None
        self._patches = patches
        self._clock = clock
        self._rollup = rollup
        self._steps = steps
        self._narration = narration
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
                self._narration.drain()
                with at_once():
                    self._rollup.drain(self._steps, self._steps.drain())
        finally:
            self._lock.release()

    def close(self) -> None:
        """Nothing comes any more: hand over the rest."""
        self._steps.over = True
        self()
        self._rollup.close()

    def look(self, calls: int = 1) -> None:
        """Flush if that is due; read what the device holds before there is no room for more."""
        self._clock.ran()
        self._steps.seen(time.monotonic())
        self._calls += calls
        if self._full:
            self()
        self._patches.tracer.flush_if_due()
        if self.ends is not None and self._clock.on_host() >= self.ends.steps:
            self()
            self.ends.end()

    @property
    def _full(self) -> bool:
        return self._calls >= (_ROOM if self._drained else COUNTED)

    def _around_function(self, original: Call) -> Call:
        tracer, steps = self._patches.tracer, self._steps

        def call(function: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(function, *args, **kwargs)
            if tf.executing_eagerly():
                self._clock.ran()
                self._calls += 1
                steps.time = now = time.monotonic()
                # a training is full of small functions: as a rule nothing is to be done
                due = self._full or now - tracer.flushed > tracers.FLUSH_EVERY
                if due or steps.waits or self.ends is not None:
                    with self._patches.guarded("after a function"):
                        self.look(calls=0)
            return result

        return call

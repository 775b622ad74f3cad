"""Keras 3 on TensorFlow: the parts of the probe, put together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mpaudit.errors import MpauditError
from mpaudit.runtime.keras.events import Events
from mpaudit.runtime.keras.layers import Layers
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.steps import ROOM, Steps
from mpaudit.runtime.keras.taps import Clock
from mpaudit.runtime.tracer import Tracer


def watch(tracer: Tracer) -> Callable[[], None]:
    """Wrap what has to be wrapped; the function that comes back drains, and puts it all back."""
    tracer.note("versions", {**(tracer.fact("versions") or {}), "tensorflow": tf.__version__})
    patches, clock = Patches(tracer), Clock()
    layers, steps = Layers(patches, clock), Steps(patches, clock)
    events = Events(patches, layers)
    drain = _Drain(patches, layers, steps, events)
    steps.on_apply = events.applied
    steps.on_end = drain.look
    layers.on_call = events.called
    for part in (layers, steps, events, drain):
        with patches.guarded("installing the Keras probe"):
            part.install()
    tracer.draining.append(drain)

    def uninstall() -> None:
        steps.over = True
        drain()
        if tracer.fact("policies"):  # a layer of Keras was called
            _tell_unheeded(tracer)
        tracer.draining.remove(drain)
        patches.restore()

    return uninstall


def _tell_unheeded(tracer: Tracer) -> None:
    """Record what was asked for and is not to be had of Keras: the run went on without it."""
    asked = tracer.sampling
    for option, given in (
        ("--light", asked.light),
        ("--every", asked.every is not None),
        ("--apply", tracer.fact("applied") is not None),
    ):
        if given:
            tracer.failed(option, MpauditError("Keras layers ran, and were watched, without it"))


class _Drain:
    """Brings what the device holds to the tracer; a `tf.function` that returns is an occasion."""

    def __init__(self, patches: Patches, layers: Layers, steps: Steps, events: Events) -> None:
        self._patches = patches
        self._layers = layers
        self._steps = steps
        self._events = events
        self._lock = threading.Lock()
        self._calls = 0

    def install(self) -> None:
        """Look after every outermost call of a compiled function whether a flush is due."""
        compiled = type(tf.function(lambda: None))
        self._patches.wrap(compiled, "__call__", self._around_function)

    def __call__(self) -> None:
        if not self._patches.active or not self._lock.acquire(blocking=False):
            return
        try:
            with self._patches.guarded("reading the taps"):
                self._calls = 0
                self._events.drain()
                attempts = self._steps.drain()
                self._layers.drain(self._steps, attempts)
        finally:
            self._lock.release()

    def look(self) -> None:
        """Flush if that is due; empty the ledger before it is full."""
        self._calls += 1
        if self._calls > ROOM // 4:
            self()
        self._patches.tracer.flush_if_due()

    def _around_function(self, original: Call) -> Call:
        def call(function: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(function, *args, **kwargs)
            if tf.executing_eagerly():
                with self._patches.guarded("after a function"):
                    self.look()
            return result

        return call

"""Gradients on their way back through a cast from float16, which may make them zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy
import tensorflow as tf
from msgspec import Struct

from mpaudit.runtime.keras.attempt import Look
from mpaudit.runtime.keras.clock import Clock
from mpaudit.runtime.keras.order import Order, runs_by_itself
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.rows import Rows, add
from mpaudit.runtime.keras.shelf import Held
from mpaudit.runtime.sampling import CALLS, sampled
from mpaudit.runtime.underflow import SMALLEST, Rounded

ROUNDED = "_mpaudit_rounded"
"""The attribute of a tensor in float16 with what is to be told of gradients that are rounded for it."""

_WIDER = ("float32", "float64")


class Lost(Struct, frozen=True):
    """What was rounded in one tick: `elements` of gradients, and what became of them."""

    tick: int
    elements: int
    rounded: Rounded


class Rounding:
    """The gradients that come back to the outputs of one layer, before they are rounded to float16.

    Of one step, those of the first `CALLS` casts are counted.
    """

    __slots__ = ("_clock", "_order", "_rows")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._order = Order()
        self._rows = Rows(clock, 5)  # elements, and the fields of `Rounded`

    def later(self) -> Callable[[Any], Any]:
        """What is to be called with a gradient in the backward pass of what is computed now.

        It gives what something has to wait for, or None. The gradient of a loop may only use resources
        that the loop itself has captured: they are captured here.
        """
        if tf.executing_eagerly():
            return self._note
        graph = tf.compat.v1.get_default_graph()
        rows = self._rows.here.captured()
        own = graph.capture(self._clock.handle)

        def note(gradient: Any) -> Any:
            return self._order.run(lambda: self._clock.look(Look(_add, gradient, [rows]), own))

        return note

    def read(self, now: int, *, last: bool = False) -> Iterator[Lost]:
        """What was counted in ticks before `now`, and is forgotten by that; at `last`, all of it."""
        for tick, _, sums in self._rows.read(now, last=last):
            elements, flushed, nonzero, lost, total = (float(each) for each in sums)
            yield Lost(tick, int(elements), Rounded(int(flushed), int(nonzero), lost, total))

    def _note(self, gradient: Any) -> None:
        tick = self._clock.on_host()
        if sampled(tick):
            magnitude = numpy.abs(gradient.numpy().astype(numpy.float64))
            gone = (magnitude > 0) & (magnitude <= SMALLEST)
            counts = magnitude.size, gone.sum(), numpy.count_nonzero(magnitude)
            sums = [*counts, magnitude.sum(where=gone), magnitude.sum()]
            self._rows.add_on_host(tick, sums, CALLS)


class Roundings:
    """Watches the gradients of casts."""

    def __init__(self, patches: Patches) -> None:
        self._patches = patches

    def install(self) -> None:
        """TensorFlow looks for the gradient of an operation in a registry."""
        from tensorflow.python.framework import ops

        self._patches.wrap(type(ops.gradient_registry), "lookup", self._around_lookup)

    def _around_lookup(self, original: Call) -> Call:
        def lookup(registry: Any, name: Any) -> Any:
            found = original(registry, name)
            return self._around_gradient(found) if name == "Cast" else found

        return lookup

    def _around_gradient(self, original: Call) -> Call:
        def gradient(operation: Any, given: Any) -> Any:
            result = original(operation, given)
            with self._patches.guarded("the gradient of a cast"):
                note = getattr(operation.inputs[0], ROUNDED, None)
                if note is not None and self._patches.active and _rounds(given):
                    done = note(tf.stop_gradient(given))
                    if done is not None and not runs_by_itself():
                        with tf.control_dependencies([done]):
                            return tf.identity(result)
            return result

        return gradient


def _rounds(gradient: Any) -> bool:
    return isinstance(gradient, tf.Tensor) and gradient.dtype.name in _WIDER


def _add(value: Any, tick: Any, held: Held) -> Any:
    """Add what a gradient holds to the rows."""
    magnitude = tf.cast(tf.abs(tf.reshape(value, [-1])), tf.float64)
    there = magnitude > 0
    gone = there & (magnitude <= SMALLEST)
    lost = tf.where(gone, magnitude, tf.zeros_like(magnitude))
    counts = tf.ones_like(magnitude), tf.cast(gone, tf.float64), tf.cast(there, tf.float64)
    sums = tf.stack([tf.reduce_sum(each) for each in (*counts, lost, magnitude)])
    return add([held], tick, sums[None], CALLS)

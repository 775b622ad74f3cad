"""What a rehearsal of a Keras script records: the losses of its steps, and what it started from.

The gradients of a step, and what layers give, are not compared: in a graph nobody sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import tensorflow as tf

from mpaudit.runtime.keras.family import Family
from mpaudit.runtime.keras.float32 import Float32, same_noise
from mpaudit.runtime.keras.identity import ByObject
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.steps import Settled, Steps
from mpaudit.runtime.keras.store import resource
from mpaudit.runtime.record import LOW_PRECISION
from mpaudit.runtime.rehearsal import Loss, Plan, Record, Sketch, Step, leave

BUCKETS = 16
_GENERATION = 3


class Recorder:
    """Puts a Keras process into the arithmetic of its plan, and records what is compared."""

    def __init__(self, plan: Plan, patches: Patches, steps: Steps) -> None:
        self._plan = plan
        self._patches = patches
        self._record = Record(framework="keras")
        self._float32: Float32 | None = None
        self._skipped = ByObject[Any]()  # optimizer -> how often it was asked whether to skip
        self._other = False  # whether there is another generation of Keras
        self._index = steps.index
        steps.on_settled = self._settled
        same_noise(patches)
        if plan.kind != "plain":
            self._float32 = Float32(patches, plan.digits if plan.kind == "rounded" else None)

    def follow(self, family: Family) -> None:
        """Change the arithmetic of one Keras from now on, and skip what is to be skipped.

        That of Keras 2 cannot be: a script that trains with it has recorded nothing.
        """
        if family.number != _GENERATION:
            self._other = True
            return
        if self._float32 is not None:
            self._float32.follow(family)
        for kind in family.scaling:
            self._patches.wrap(kind, "check_finite", self._around_finite)

    def began(self, family: Family, variables: Sequence[Any]) -> None:
        """Gradients are applied to these variables, which at first are what training starts from."""
        if self._record.start or family.number != _GENERATION:
            return
        with tf.init_scope():
            values = [family.value(each).numpy() for each in variables]
        parameters = [_sketch(each) for each in values]
        self._record.start = {"parameters": parameters, "inputs": [], "random": ""}

    def _around_finite(self, original: Call) -> Call:
        def check_finite(optimizer: Any, grads: Any) -> Any:
            finite = original(optimizer, grads)
            skips = self._plan.skips.get(str(self._index(optimizer)), ())
            if not skips:
                return finite
            counter = self._skipped.get(optimizer)
            if counter is None:
                with tf.init_scope():
                    start = tf.constant(0, tf.int64)
                counter = self._skipped.put(optimizer, resource(start))
            number = tf.raw_ops.ReadVariableOp(resource=counter, dtype=tf.int64)
            more = tf.raw_ops.AssignAddVariableOp(resource=counter, value=tf.constant(1, tf.int64))
            skip = tf.reduce_any(number == tf.constant(list(skips), tf.int64))
            with tf.control_dependencies([] if more is None else [more]):
                return tf.identity(tf.cast(finite, tf.bool) & ~skip)

        return check_finite

    def _settled(self, settled: Settled) -> None:
        """The outcome of an attempt is known."""
        if settled.at is None or settled.applied is None or not self._record.start:
            return
        record, number = self._record, settled.step
        if number >= self._plan.steps:
            return
        place = record.place(settled.at)
        if settled.loss is not None:
            record.losses.append(Loss(place, number, settled.loss))
        record.steps.append(Step(settled.optimizer, number, settled.applied, place, []))

    @property
    def steps(self) -> int:
        """After how many attempts to end."""
        return self._plan.steps

    def end(self) -> None:
        """End the process, before the script goes on."""
        if self._record.start:
            self._record.dtypes = self._low()
            leave(self._record, self._plan)

    def write(self) -> None:
        """Write what was recorded; the script came to its own end."""
        if self._record.start or not self._other:
            self._record.dtypes = self._low()
            self._record.write(self._plan.record)

    def _low(self) -> list[str]:
        return sorted(LOW_PRECISION & self._patches.tracer.dtypes)


def _sketch(values: Any) -> Sketch:
    """BUCKETS sums with signs drawn once, or the elements themselves where there are no more of them."""
    flat = numpy.asarray(values, numpy.float64).reshape(-1)
    if flat.size > BUCKETS:
        signs = numpy.random.default_rng(flat.size).choice([-1.0, 1.0], flat.size)
        padded = numpy.pad(flat * signs, (0, -flat.size % BUCKETS))
        flat = padded.reshape(-1, BUCKETS).sum(axis=0)
    return [float(each) for each in flat]

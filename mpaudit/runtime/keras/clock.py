"""What a graph keeps on the device: resources, and the clock by which everything is dated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mpaudit.runtime.sampling import AFTER, COUNTED, FIRST, sampled

_ANONYMOUS = "cd2c89b7-88b7-44c8-ad83-06c2a9158347"
"""The shared name by which TensorFlow makes a resource that lives as long as its handle."""

_POWERS = tuple(2**n for n in range(COUNTED.bit_length()))


def resource(start: Any) -> Any:
    """A fresh resource that holds `start`, outside every graph that is being traced.

    A plain resource and no `tf.Variable`: tapes, models and distribution strategies do not see it.
    What it holds is noted on the handle, as for a variable: TensorFlow wants to know that when the
    backward pass of a graph is a graph of its own.
    """
    from tensorflow.python.ops import handle_data_util

    with tf.init_scope():
        handle = tf.raw_ops.VarHandleOp(
            dtype=start.dtype, shape=start.shape, shared_name=_ANONYMOUS
        )
        handle._handle_data = handle_data_util.create_handle_data(start.shape, start.dtype)
        tf.raw_ops.AssignVariableOp(resource=handle, value=start)
    return handle


def traced(function: Callable[..., Any], *given: Any) -> Callable[..., Any]:
    """`function` as one operation for any graph: traced once, for arguments of these specs.

    The last of `given` is the number of resources that come after them.
    """
    *specs, resources = given
    handles = [tf.TensorSpec([], tf.resource)] * resources
    with tf.init_scope():
        whole = tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
        concrete: Callable[..., Any] = whole.get_concrete_function(*specs, *handles)
    return concrete


class Clock:
    """Counts attempts to step, of all optimizers together, on the device.

    Tensors are looked at in each `every`-th of them, in the first ones, in those in which numbers are
    counted, and in some from one on in which something went wrong, see `Sampling`. Whether they are is
    worked out once for each attempt, when the one before it is over. The resources are made when they
    are first needed: a script may still set up its devices after the import.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self._made: Any = None
        self._looking: Any = None
        self._host: int | None = None
        self._until = FIRST

    @property
    def handle(self) -> Any:
        """The resource that holds the tick."""
        if self._made is None:
            with tf.init_scope():
                self._made = resource(tf.constant(0, tf.int64))
        return self._made

    @property
    def looking(self) -> Any:
        """The resource that holds the tick before which all is looked at, and 1 if the attempt that is
        being prepared is, else 0; None if all are."""
        if self.every > 1 and self._looking is None:
            with tf.init_scope():
                self._looking = resource(tf.constant([FIRST, 1], tf.int64))
        return self._looking

    def now(self) -> Any:
        """The tick as a tensor: of the attempt that is being prepared."""
        return tick_of(self.handle)

    def advance(self) -> None:
        """An attempt is over."""
        one = tf.constant(1, tf.int64)
        tf.raw_ops.AssignAddVariableOp(resource=self.handle, value=one)
        if self.looking is not None:
            tick, until = self.now(), _state(self.looking)[0]
            looks = (tick < until) | (tick % self.every == 0) | sampled_at(tick)
            state = tf.stack([until, tf.cast(looks, tf.int64)])
            tf.raw_ops.AssignVariableOp(resource=self.looking, value=state)
        self._host = None

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

    def unless(self, applied: Any) -> None:
        """Something went wrong in an attempt that was not applied: the next ones are looked at."""
        if self.every == 1:
            return
        if not tf.executing_eagerly():
            alarmed(self.looking, self.now(), ~applied)
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


def _state(looking: Any) -> Any:
    state = tf.raw_ops.ReadVariableOp(resource=looking, dtype=tf.int64)
    state.set_shape([2])
    return state


def looked_at(looking: Any) -> Any:
    """`Clock.looks` inside a graph."""
    return _state(looking)[1] > 0


def alarmed(looking: Any, tick: Any, bad: Any) -> Any:
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

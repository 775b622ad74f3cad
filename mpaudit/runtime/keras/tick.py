"""What the clock keeps on the device, and what graphs make of it.

Three integers: the tick, counted in attempts to step; the one from which on it is looked at again; and
the one before which all are. What an attempt that is not looked at does is to add one to the first: the
second is worked out in those that are.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mpaudit.runtime.sampling import AFTER, COUNTED, FIRST

START = (0, 0, FIRST)
_POWERS = tuple(2**n for n in range(COUNTED.bit_length()))
_NEVER = 2**62


def state_of(handle: Any) -> Any:
    """The three integers in a resource, as a tensor."""
    state = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.int64)
    state.set_shape([len(START)])
    return state


def tick_of(handle: Any) -> Any:
    """The tick in a resource, as a tensor."""
    return state_of(handle)[0]


def advanced(handle: Any) -> Any:
    """An attempt is over; gives the operation."""
    more = tf.constant([1, 0, 0], tf.int64)
    return tf.raw_ops.AssignAddVariableOp(resource=handle, value=more)


def alarmed(handle: Any, tick: Any, wrong: Any) -> Any:
    """Something may be wrong in the attempt at a tick: those that follow are looked at then; gives the
    operation."""
    state = state_of(handle)
    later = tf.where(wrong, tf.maximum(state[2], tick + 1 + AFTER), state[2])
    return tf.raw_ops.AssignVariableOp(
        resource=handle, value=tf.stack([*tf.unstack(state[:2]), later])
    )


def settled(handle: Any, tick: Any, applied: Any) -> Any:
    """The same of one that may have been skipped, at its end."""
    least = tf.constant([0, 0, FIRST], tf.int64)  # the last one is never lower than it was
    skipped = tf.maximum(tick + tf.constant([0, 1, 1 + AFTER], tf.int64), least)
    state = tf.where(applied, state_of(handle), skipped)
    return tf.raw_ops.AssignVariableOp(resource=handle, value=state)


def decided(handle: Any, tick: Any, wrong: Any, every: int) -> Any:
    """The attempt at a tick is about to be over: which one is looked at next; gives the operation."""
    until = state_of(handle)[2]
    until = tf.where(wrong, tf.maximum(until, tick + 1 + AFTER), until)
    after = tick + 1
    regular = tf.minimum(_multiple(tick, every), _multiple(tick, COUNTED))
    powers = tf.constant(_POWERS, tf.int64)
    counted = tf.reduce_min(tf.where(powers > tick, powers, tf.constant(_NEVER, tf.int64)))
    following = tf.where(after < until, after, tf.minimum(regular, counted))
    state = tf.stack([tick, following, until])
    return tf.raw_ops.AssignVariableOp(resource=handle, value=state)


def _multiple(tick: Any, of: int) -> Any:
    """The first one behind a tick."""
    return (tick // of + 1) * of


def sampled_at(tick: Any) -> Any:
    """`sampling.sampled` inside a graph."""
    power = tf.bitwise.bitwise_and(tick, tick - 1) == 0
    return tf.where(tick < COUNTED, power, tick % COUNTED == 0)


def ordinal_of(tick: Any) -> Any:
    """How many sampled ticks there are before this sampled one."""
    powers = tf.constant(_POWERS, tf.int64)
    return tf.reduce_sum(tf.cast(tick >= powers, tf.int64)) + tick // COUNTED

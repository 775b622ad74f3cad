"""Following a tensor: the same numbers, such that the gradient which comes back passes by."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import tensorflow as tf

_SERIAL = count()


def followed(value: Any, back: Callable[[Any], Any]) -> Any:
    """`value`, whose gradient is what `back` makes of the one that comes back to it.

    In a graph that is a plain identity: TensorFlow takes those out before it looks which operations
    it can fuse into one, and leaves those of `tf.custom_gradient`, with which a model trains to other
    last bits than without.
    """
    if tf.executing_eagerly():
        return tf.custom_gradient(lambda tensor: (tensor, back))(value)
    from tensorflow.python.eager import record
    from tensorflow.python.framework import ops

    name = f"MpauditFollowed{next(_SERIAL)}"
    ops.RegisterGradient(name)(lambda _, gradient: back(gradient))
    graph = tf.compat.v1.get_default_graph()
    with record.stop_recording(), graph.gradient_override_map({"Identity": name}):
        result = tf.identity(value)
    record.record_operation("MpauditFollowed", [result], [value], lambda gradient: [back(gradient)])
    return result

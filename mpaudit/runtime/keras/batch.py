"""Tensors of TensorFlow, as the count of casts asks for them."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from mpaudit.runtime.keras.casts import Size, due
from mpaudit.runtime.keras.layers import recording
from mpaudit.runtime.keras.store import resource


class Batch:
    """`casts.Backend` of TensorFlow: one resource sums up how large the batches of graphs are."""

    def __init__(self) -> None:
        self._handle: Any = None

    def looks(self, step: int) -> bool:
        """Of one replica, while gradients are recorded; of eager steps some."""
        if tf.distribute.get_strategy().num_replicas_in_sync > 1 or not recording():
            return False
        return due(step) if tf.executing_eagerly() else True

    def size(self, tensor: Any) -> Size | None:
        """Ragged and sparse ones have none."""
        if not isinstance(tensor, tf.Tensor) or tensor.shape.rank is None:
            return None
        sizes = tensor.shape.as_list()
        return Size(math.prod(each for each in sizes if each is not None), sizes.count(None))

    def sees_batch(self, tensor: Any) -> None:
        """Once in each graph."""
        graph = tf.compat.v1.get_default_graph()
        if getattr(graph, _SEEN, False):
            return
        setattr(graph, _SEEN, True)
        if self._handle is None:
            with tf.init_scope():
                self._handle = resource(tf.zeros([2], tf.float64))
        at = tensor.shape.as_list().index(None)
        large = tf.cast(tf.shape(tensor)[at], tf.float64)
        more = tf.stack([large, tf.ones([], tf.float64)])
        tf.raw_ops.AssignAddVariableOp(resource=self._handle, value=more)

    def batch(self) -> float | None:
        """The mean of all."""
        if self._handle is None:
            return None
        with tf.init_scope():
            total, count = tf.raw_ops.ReadVariableOp(
                resource=self._handle, dtype=tf.float64
            ).numpy()
        return float(total / count) if count else None


_SEEN = "_mpaudit_batch_seen"

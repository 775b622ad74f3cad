"""Tensors of TensorFlow, as the count of casts asks for them."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from mpaudit.runtime.keras.casts import Size, due
from mpaudit.runtime.keras.layers import recording
from mpaudit.runtime.keras.store import Store, noted, replica, unseen


class Batch:
    """`casts.Backend` of TensorFlow: a resource of each replica sums up how large its batches are."""

    def __init__(self) -> None:
        self._sums = Store(tf.float64, lambda: [0.0, 0.0])  # of sizes, and how many

    def looks(self, step: int) -> bool:
        """While gradients are recorded; of eager steps some."""
        if unseen() or not recording():
            return False
        return due(step) if tf.executing_eagerly() else True

    def size(self, tensor: Any) -> Size | None:
        """Ragged and sparse ones have none."""
        if not isinstance(tensor, tf.Tensor) or tensor.shape.rank is None:
            return None
        sizes = tensor.shape.as_list()
        known = math.prod(each for each in sizes if each is not None)
        return Size(known, sizes.count(None), replica())

    def sees_batch(self, tensor: Any) -> None:
        """Once in each graph, and replica."""
        seen = noted(_SEEN)
        if replica() in seen:
            return
        seen[replica()] = True
        at = tensor.shape.as_list().index(None)
        large = tf.cast(tf.shape(tensor)[at], tf.float64)
        more = tf.stack([large, tf.ones([], tf.float64)])
        tf.raw_ops.AssignAddVariableOp(resource=self._sums.here, value=more)

    def batch(self, replica: int) -> float | None:
        """The mean of all."""
        total, count = self._sums.held().get(replica, (0.0, 0.0))
        return float(total / count) if count else None

    def replicas(self) -> tuple[int, int]:
        """What all do together is done when the last one is."""
        count = tf.distribute.get_strategy().num_replicas_in_sync
        return count - 1 if tf.distribute.in_cross_replica_context() else replica(), count


_SEEN = "_mpaudit_batch_seen"

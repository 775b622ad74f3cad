"""Keras 3 on TensorFlow."""

from __future__ import annotations

import math
import sys
from types import CodeType
from typing import Any

import tensorflow as tf

from mpaudit.runtime.keras.keras3 import Keras3


class Keras3OnTensorFlow(Keras3):
    """`Family` of the package `keras`."""

    def loop(self) -> CodeType:
        """Of the backend."""
        code: CodeType = sys.modules["keras.src.backend.tensorflow.rnn"].rnn.__code__
        return code

    def value(self, variable: Any) -> Any:
        """As a tensor."""
        return tf.convert_to_tensor(variable.value)

    def handle(self, variable: Any) -> Any:
        """Of the variable of TensorFlow inside."""
        return variable.value.handle

    def cast(self) -> Any:
        """Of the backend, which Keras' own calls as well."""
        return tf.cast

    def scale(self, optimizer: Any) -> Any:
        """Of a LossScaleOptimizer from its first attempt on."""
        if not isinstance(optimizer, self.scaling):
            return optimizer.loss_scale_factor or math.nan
        return tf.convert_to_tensor(optimizer.dynamic_scale) if optimizer.built else None

    def progress(self, optimizer: Any) -> Any:
        """How many attempts were not skipped, those that only accumulate gradients included."""
        if not isinstance(optimizer, self.scaling):
            return None
        return tf.identity(tf.convert_to_tensor(optimizer.inner_optimizer._iterations))

    def applied(self, optimizer: Any, before: Any, after: Any) -> Any:
        """Without a loss scale none is skipped."""
        return tf.constant(True) if before is None else super().applied(optimizer, before, after)

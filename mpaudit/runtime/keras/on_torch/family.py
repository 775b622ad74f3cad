"""Keras 3 on torch, as a `Family`."""

from __future__ import annotations

import sys
from types import CodeType
from typing import Any

from mpaudit.runtime.keras.keras3 import Keras3


class Keras3OnTorch(Keras3):
    """`Family` of the package `keras`; its tensors are those of torch."""

    def loop(self) -> CodeType:
        """Of the backend."""
        code: CodeType = sys.modules["keras.src.backend.torch.rnn"].rnn.__code__
        return code

    def value(self, variable: Any) -> Any:
        """The parameter itself, in which it is stored."""
        return variable._value

    def handle(self, variable: Any) -> Any:  # noqa: ARG002
        """Torch has none."""
        return None

    def cast(self) -> Any:
        """Keras' own: torch has a method."""
        return sys.modules["keras.src.backend.torch.core"].cast

    def scale(self, optimizer: Any) -> Any:
        """Of a LossScaleOptimizer before its first attempt the initial one; None without one."""
        if not isinstance(optimizer, self.scaling):
            return optimizer.loss_scale_factor
        return optimizer.dynamic_scale._value if optimizer.built else optimizer.initial_scale

    def progress(self, optimizer: Any) -> Any:
        """How many attempts were not skipped, those that only accumulate gradients included."""
        return getattr(optimizer, "inner_optimizer", optimizer)._iterations._value.clone()

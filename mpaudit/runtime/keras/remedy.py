"""A training as advised, without an edit of the script: policies of layers, loss scales, a policy."""

from __future__ import annotations

from typing import Any

import keras

from mpaudit.runtime.advice import Advice
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.register import Register

_MIXED = "mixed_float16"


class Remedy:
    """Changes what policies and loss scale optimizers do; pure float16 stays as it is.

    To be installed after everything else, which is to see what it changes.
    """

    def __init__(self, advice: Advice, patches: Patches, register: Register) -> None:
        self._advice = advice
        self._patches = patches
        self._register = register

    def install(self) -> None:
        """Put the advice into effect from now on."""
        advice, wrap = self._advice, self._patches.wrap
        if advice.init_scale is not None or advice.growth_interval is not None:
            wrap(keras.optimizers.LossScaleOptimizer, "__init__", self._around_scaling)
        if advice.dtype is not None:
            wrap(keras.DTypePolicy, "__init__", self._around_policy)
        if advice.float32:
            wrap(keras.layers.Layer, "__call__", self._around_call)

    def _around_scaling(self, original: Call) -> Call:
        def init(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            advice = self._advice
            optimizer.initial_scale = advice.init_scale or optimizer.initial_scale
            optimizer.dynamic_growth_steps = (
                advice.growth_interval or optimizer.dynamic_growth_steps
            )

        return init

    def _around_policy(self, original: Call) -> Call:
        def init(policy: Any, name: Any = None, *args: Any, **kwargs: Any) -> None:
            wanted = f"mixed_{self._advice.dtype}" if name == _MIXED else name
            original(policy, wanted, *args, **kwargs)

        return init

    def _around_call(self, original: Call) -> Call:
        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            with self._patches.guarded("keeping a layer in float32"):
                path = self._register.entered(layer).path
                if path in self._advice.float32 and layer.dtype_policy.name == _MIXED:
                    layer.dtype_policy = "float32"
            return original(layer, *args, **kwargs)

        return call

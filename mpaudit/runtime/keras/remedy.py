"""A training as advised, without an edit of the script: policies of layers, loss scales, a policy."""

from __future__ import annotations

from functools import partial
from typing import Any

from mpaudit.runtime.advice import Advice
from mpaudit.runtime.keras.family import Family
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

    def follow(self, family: Family) -> None:
        """Put the advice into effect in one Keras from now on."""
        advice, wrap = self._advice, self._patches.wrap
        if advice.init_scale is not None or advice.growth_interval is not None:
            for kind in family.scaling:
                wrap(kind, "__init__", partial(self._around_scaling, family))
        if advice.dtype is not None:
            wrap(family.policy, "__init__", self._around_policy)
        if advice.float32:
            wrap(family.layer, "__call__", partial(self._around_call, family))

    def _around_scaling(self, family: Family, original: Call) -> Call:
        def init(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            family.restart(optimizer, self._advice.init_scale, self._advice.growth_interval)

        return init

    def _around_policy(self, original: Call) -> Call:
        def init(policy: Any, name: Any = None, *args: Any, **kwargs: Any) -> None:
            wanted = f"mixed_{self._advice.dtype}" if name == _MIXED else name
            original(policy, wanted, *args, **kwargs)

        return init

    def _around_call(self, family: Family, original: Call) -> Call:
        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            with self._patches.guarded("keeping a layer in float32"):
                if family.named_early or not family.symbolic(family.flatten((args, kwargs))):
                    path = self._register.entered(family, layer).path
                    if path in self._advice.float32 and family.policy_of(layer) == _MIXED:
                        family.repolicy(layer, "float32")
            return original(layer, *args, **kwargs)

        return call

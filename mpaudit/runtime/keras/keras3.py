"""Keras 3, whatever its backend."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras.src.backend.common import global_state, name_scope, symbolic_scope, variables

from mpaudit.runtime.keras.family import Arguments, Casting
from mpaudit.runtime.keras.patch import Call, Patches


class Keras3:
    """What `Family` says of the package `keras`, those questions aside that its backend answers."""

    number = 3
    name = "keras"
    version = keras.__version__

    layer = keras.layers.Layer
    model = keras.Model
    sequential = keras.Sequential
    functional = keras.src.models.functional.Functional
    softmax = keras.layers.Softmax
    policy = keras.DTypePolicy
    loss = keras.losses.Loss
    loss_by_name = keras.src.losses.losses.LossFunctionWrapper
    plain = (keras.optimizers.Optimizer,)
    scaling = (keras.optimizers.LossScaleOptimizer,)

    named_early = True  # and some have it only then
    apply = "apply"
    scale_loss = "scale_loss"
    casting: Mapping[tuple[Any, str], Casting] = {
        (variables.AutocastScope, "maybe_cast"): "parameter",
        (keras.DTypePolicy, "convert_input"): "input",
    }
    unscale: str | None = None

    flatten = staticmethod(keras.tree.flatten)
    mapped = staticmethod(keras.tree.map_structure)

    def follow_policy(self, patches: Patches, told: Callable[[str], None]) -> None:
        """Every policy goes by way of one global attribute."""

        def around(original: Call) -> Call:
            def set_attribute(name: str, value: Any) -> None:
                original(name, value)
                if name == "dtype_policy" and _by_the_script():
                    told(str(value.name))

            return set_attribute

        patches.wrap(global_state, "set_global_attribute", around)

    def global_policy(self) -> str:
        """Asking Keras itself would set one."""
        policy = global_state.get_global_attribute("dtype_policy")
        return str(keras.backend.floatx() if policy is None else policy.name)

    def policy_of(self, layer: Any) -> str:
        """Of a map, what it has for the path of the layer."""
        policy = layer.dtype_policy
        if isinstance(policy, keras.dtype_policies.DTypePolicyMap) and layer.path:
            policy = policy[layer.path]
        return str(policy.name)

    def repolicy(self, layer: Any, policy: str) -> None:
        """Keras 3 has a setter for it."""
        layer.dtype_policy = policy

    def internal(self, kind: Any) -> bool:
        """An input, or what a Sequential makes of itself."""
        if issubclass(kind, keras.layers.InputLayer):
            return True
        frame = sys._getframe(1) if issubclass(kind, self.functional) else None
        while frame is not None:
            if frame.f_code is keras.Sequential.build.__code__:
                return True
            frame = frame.f_back
        return False

    def hidden(self, _: Any) -> str | None:
        """All can be seen."""
        return None

    def symbolic(self, leaves: Sequence[Any]) -> bool:
        """By a scope of Keras, or the tensors of its functional models."""
        inside = symbolic_scope.in_symbolic_scope()
        return inside or any(isinstance(each, keras.KerasTensor) for each in leaves)

    def path(self, layer: Any, _: Callable[[Any], str]) -> str:
        """What Keras will call it, or already does."""
        scope = name_scope.current_path()
        return str(layer.path or (f"{scope}/{layer.name}" if scope else layer.name))

    def contains(self, layer: Any) -> bool:
        """Whether there are layers in a layer."""
        return bool(layer._layers)

    def takes(self, layer: Any) -> str | None:
        """Of a Sequential that of its first layer; a functional model leaves that to its layers."""
        if not (layer.autocast and getattr(layer, "_convert_input_args", True)):
            return None
        return str(layer.input_dtype)

    def variables(self, layer: Any) -> tuple[list[Any], list[Any]]:
        """Of the layer itself."""
        return layer._trainable_variables, layer._non_trainable_variables

    def stored(self, variable: Any) -> str:
        """`dtype` is what an autocast scope would make of it."""
        return str(variable._dtype)

    def maker(self, output: Any) -> Any:
        """By the history of a symbolic tensor."""
        return output._keras_history.operation

    def listed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Gradients, and variables where they are given."""
        whole = tuple(each if each is None else list(each) for each in args)
        return whole, {name: each if each is None else list(each) for name, each in kwargs.items()}

    def pairs(self, optimizer: Any, arguments: Arguments) -> tuple[list[Any], Sequence[Any]]:
        """Without variables, those that the optimizer was built for."""
        args, kwargs = arguments
        given = dict(zip(("grads", "trainable_variables"), args, strict=False)) | kwargs
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        built_for = inner._trainable_variables if inner.built else ()
        return given["grads"], given.get("trainable_variables") or built_for

    def scales(self, optimizer: Any) -> bool:
        """By a fixed factor, too."""
        return isinstance(optimizer, self.scaling) or optimizer.loss_scale_factor is not None

    def unscaled(self, _: Any) -> bool:
        """The optimizer itself divides."""
        return False

    def applied(self, _: Any, before: Any, after: Any) -> Any:
        """A skipped one is not counted."""
        return before != after

    def start(self, optimizer: Any) -> tuple[float, int | None]:
        """As it was made."""
        return float(optimizer.initial_scale), int(optimizer.dynamic_growth_steps)

    def restart(self, optimizer: Any, scale: float | None, growth: int | None) -> None:
        """The variable is made later."""
        optimizer.initial_scale = scale or optimizer.initial_scale
        optimizer.dynamic_growth_steps = growth or optimizer.dynamic_growth_steps


def _by_the_script() -> bool:
    """Whether the policy is being set by a call to `set_dtype_policy`, not as a default."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "set_dtype_policy":
        frame = frame.f_back  # type: ignore[assignment]
    above = None if frame is None else frame.f_back
    return above is not None and above.f_code.co_name != "dtype_policy"

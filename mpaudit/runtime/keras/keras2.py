"""Keras 2: the package `tf_keras`, which `tf.keras` is with TF_USE_LEGACY_KERAS=1."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras.src import backend
from tf_keras.src.engine import base_layer_utils, base_layer_v1, functional, keras_tensor
from tf_keras.src.losses import LossFunctionWrapper
from tf_keras.src.mixed_precision import autocast_variable, loss_scale_optimizer, policy

from mpaudit.runtime.keras.family import Arguments, Casting
from mpaudit.runtime.keras.patch import Call, Patches

_OPERATIONS = (
    "tf_keras.src.layers.core.tf_op_layer"  # layers made of operations on a symbolic tensor
)

_VARIABLE = autocast_variable.AutoCastVariable


class Keras2:
    """`Family` of the package `tf_keras`."""

    number = 2
    name = "tf_keras"
    version = tf_keras.__version__

    layer = tf_keras.layers.Layer
    model = tf_keras.Model
    sequential = tf_keras.Sequential
    functional = functional.Functional
    softmax = tf_keras.layers.Softmax
    policy = policy.Policy
    loss = tf_keras.losses.Loss
    loss_by_name = LossFunctionWrapper
    plain = (tf_keras.optimizers.Optimizer, tf_keras.optimizers.legacy.Optimizer)
    scaling = (loss_scale_optimizer.LossScaleOptimizer, loss_scale_optimizer.LossScaleOptimizerV3)

    named_early = False
    apply = "apply_gradients"
    scale_loss = "get_scaled_loss"
    casting: Mapping[tuple[Any, str], Casting] = {
        (tf_keras.layers.Layer, "_cast_single_input"): "input",
        **{
            (_VARIABLE, name): "parameter"
            for name in ("value", "read_value", "_dense_var_to_tensor")
        },
    }
    unscale: str | None = "get_unscaled_gradients"

    flatten = staticmethod(tf.nest.flatten)
    mapped = staticmethod(tf.nest.map_structure)

    def follow_policy(self, patches: Patches, told: Callable[[str], None]) -> None:
        """`set_global_policy` has many names; what it calls last has one."""
        setter = inspect.unwrap(policy.set_global_policy).__code__

        def around(original: Call) -> Call:
            def set_using(*args: Any, **kwargs: Any) -> Any:
                result = original(*args, **kwargs)
                frame = sys._getframe(1)
                while frame is not None and frame.f_code is not setter:
                    frame = frame.f_back  # type: ignore[assignment]
                if frame is not None:
                    told(self.global_policy())
                return result

            return set_using

        patches.wrap(policy.tf.__internal__.train, "set_using_mixed_precision_policy", around)

    def global_policy(self) -> str:
        """Without a policy, the default dtype."""
        found = policy._global_policy
        return str(backend.floatx() if found is None else found.name)

    def policy_of(self, layer: Any) -> str:
        """There are no maps."""
        return str(layer.dtype_policy.name)

    def cast(self) -> Any:
        """Of the backend."""
        return tf.cast

    def repolicy(self, layer: Any, policy: str) -> None:
        """Its variables look for the dtype of the layer when they are read."""
        layer._set_dtype_policy(policy)

    def internal(self, kind: Any) -> bool:
        """An input, a metric, or an operation on a symbolic tensor."""
        if kind.__module__ == _OPERATIONS:
            return True
        return issubclass(kind, tf_keras.layers.InputLayer | tf_keras.metrics.Metric)

    def hidden(self, layer: Any) -> str | None:
        """Those of TensorFlow 1 are called otherwise."""
        if isinstance(layer, base_layer_v1.Layer):
            return "layers of Keras 2 are not watched where TensorFlow 1 is imitated"
        return None

    def symbolic(self, leaves: Sequence[Any]) -> bool:
        """By the tensors of functional models, or the graphs in which Keras tries layers out."""
        if any(isinstance(each, keras_tensor.KerasTensor) for each in leaves):
            return True
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        while graph is not None:
            name = getattr(graph, "name", "")
            if name == "build_graph" or name.endswith("_scratch_graph"):
                return True
            graph = getattr(graph, "outer_graph", None)
        return False

    def loop(self) -> CodeType:
        """Of the backend."""
        code: CodeType = inspect.unwrap(backend.rnn).__code__
        return code

    def path(self, layer: Any, known: Callable[[Any], str]) -> str:
        """Its name, behind that of the layer or model in which it is called for the first time."""
        context = base_layer_utils.call_context()
        around = context.layer if context.in_call else None
        if around is None or around is layer:
            return str(layer.name)
        return f"{known(around)}/{layer.name}"

    def contains(self, layer: Any) -> bool:
        """Metrics are layers as well."""
        inside = layer._flatten_layers(recursive=False, include_self=False)
        return any(not isinstance(each, tf_keras.metrics.Metric) for each in inside)

    def takes(self, layer: Any) -> str | None:
        """A functional model leaves that to its layers, a Sequential too."""
        return str(layer.compute_dtype) if layer._autocast else None

    def variables(self, layer: Any) -> tuple[list[Any], list[Any]]:
        """Of the layer itself, and of a cell that a fused kernel stands for."""
        owners = [layer]
        if getattr(layer, "_could_use_gpu_kernel", False):
            owners.append(layer.cell)
        trainable = [each for owner in owners for each in owner._trainable_weights]
        others = [each for owner in owners for each in owner._non_trainable_weights]
        return trainable, [each for each in others if hasattr(each, "dtype")]  # not a vocabulary

    def stored(self, variable: Any) -> str:
        """`dtype` is what a variable that is cast when it is read would be here and now."""
        return str(getattr(variable, "true_dtype", variable.dtype).name)

    def value(self, variable: Any) -> Any:
        """As a tensor."""
        return variable.read_value()

    def handle(self, variable: Any) -> Any:
        """Of the variable itself."""
        return variable.handle

    def maker(self, output: Any) -> Any:
        """By the history of a symbolic tensor."""
        return output._keras_history.layer

    def listed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Pairs, which come as an iterator as a rule."""
        if args:
            return (list(args[0]), *args[1:]), kwargs
        name = "grads_and_vars"
        return args, {**kwargs, name: list(kwargs[name])} if name in kwargs else kwargs

    def pairs(self, _: Any, arguments: Arguments) -> tuple[list[Any], Sequence[Any]]:
        """Variables always come with their gradients."""
        args, kwargs = arguments
        given = args[0] if args else kwargs["grads_and_vars"]
        return [gradient for gradient, _ in given], [variable for _, variable in given]

    def scales(self, optimizer: Any) -> bool:
        """Others have none."""
        return isinstance(optimizer, self.scaling)

    def unscaled(self, optimizer: Any) -> bool:
        """The loop has to do it, and the optimizer remembers whether it did."""
        return self.scales(optimizer) and bool(optimizer._gradients_have_been_unscaled)

    def scale(self, optimizer: Any) -> Any:
        """There from the beginning."""
        return tf.identity(optimizer.loss_scale) if self.scales(optimizer) else math.nan

    def progress(self, optimizer: Any) -> Any:
        """Counter and loss scale: iterations count skipped attempts, too."""
        if not self.scales(optimizer) or not optimizer.dynamic:
            return tf.zeros([2], tf.float64)
        both = optimizer.dynamic_counter, optimizer.loss_scale
        return tf.stack([tf.cast(each, tf.float64) for each in both])

    def applied(self, optimizer: Any, before: Any, after: Any) -> Any:
        """One that was skipped has set the counter to 0, and has not raised the scale as growth does."""
        if not self.scales(optimizer) or not optimizer.dynamic:
            return tf.constant(True)
        grown = (before[0] + 1 >= optimizer.dynamic_growth_steps) & (after[1] > before[1])
        return (after[0] > before[0]) | grown

    def start(self, optimizer: Any) -> tuple[float, int | None]:
        """A fixed scale does not grow."""
        growth = optimizer.dynamic_growth_steps
        return float(optimizer.initial_scale), None if growth is None else int(growth)

    def restart(self, optimizer: Any, scale: float | None, growth: int | None) -> None:
        """What is fixed stays."""
        if not optimizer.dynamic:
            return
        state = optimizer._loss_scale
        state._growth_steps = growth or state._growth_steps
        if scale is not None:
            state._initial_loss_scale = float(scale)
            with tf.init_scope():
                state._current_loss_scale.assign(scale)

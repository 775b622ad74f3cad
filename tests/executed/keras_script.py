"""Keras 3 and Keras 2, prepared for a script that is run for its parameters."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy
import tensorflow

from tests.executed import Arithmetic
from tests.executed.optimizer import NAMES, at_one

Started = dict[int, tuple[Any, Any]]
"""By identity: a variable that is trained, and its value before the first step."""


def load() -> None:
    """Import what scripts import, once, before their processes are forked."""
    with contextlib.suppress(ImportError):
        importlib.import_module("tf_keras")


@contextlib.contextmanager
def prepared(arithmetic: Arithmetic) -> Iterator[Callable[[], list[list[float]]]]:
    """Seeds, SGD; inside, a script runs."""
    keras.utils.set_random_seed(0)
    started: Started = {}
    _keras_3(started)
    if "tf_keras" in sys.modules:
        _keras_2(sys.modules["tf_keras"], started)
    if arithmetic != "as written":
        _float32()
    if arithmetic == "plain":
        for each in _loss_scalers():
            at_one(each, "initial_scale")
    yield lambda: [_sums(_array(each), start) for each, start in started.values()]


def _array(variable: Any) -> Any:
    of_keras_3 = isinstance(variable, keras.Variable)
    return numpy.array(variable.value if of_keras_3 else variable, dtype="float64")


def _sums(value: Any, start: Any) -> list[float]:
    if value.shape != start.shape:  # made in a tf.function, it had no value yet
        start = numpy.zeros_like(value)
    return [
        float(number) for each in (value, value - start) for number in (each.sum(), (each**2).sum())
    ]


def _note(started: Started, variables: Any) -> None:
    """Keep the values of variables that are about to be trained for the first time."""
    with tensorflow.init_scope():
        for each in variables:
            if id(each) not in started:
                started[id(each)] = (each, _array(each))


def _keras_3(started: Started) -> None:
    build = keras.optimizers.Optimizer.build

    def noting(optimizer: Any, variables: Any) -> Any:
        _note(started, variables)
        return build(optimizer, variables)

    def step(optimizer: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate, change = (keras.ops.cast(each, variable.dtype) for each in (learning_rate, gradient))
        optimizer.assign_sub(variable, keras.ops.multiply(change, rate))

    keras.optimizers.Optimizer.build = noting
    for optimizer in _adaptive(keras.optimizers):
        optimizer.update_step = step


def _keras_2(tf_keras: Any, started: Started) -> None:
    def noting(original: Any) -> Any:
        def apply(optimizer: Any, grads_and_vars: Any, *args: Any, **kwargs: Any) -> Any:
            pairs = list(grads_and_vars)
            _note(started, [variable for _, variable in pairs])
            return original(optimizer, pairs, *args, **kwargs)

        return apply

    def step(optimizer: Any, gradient: Any, variable: Any, *_: Any, **__: Any) -> Any:
        legacy = isinstance(optimizer, tf_keras.optimizers.legacy.Optimizer)
        rate = optimizer._get_hyper("learning_rate") if legacy else optimizer.learning_rate
        dense = tensorflow.convert_to_tensor(gradient)
        return variable.assign_sub(dense * tensorflow.cast(rate, variable.dtype))

    for module in (tf_keras.optimizers, tf_keras.optimizers.legacy):
        module.Optimizer.apply_gradients = noting(module.Optimizer.apply_gradients)
    for optimizer in _adaptive(tf_keras.optimizers):
        optimizer.update_step = step
    for optimizer in _adaptive(tf_keras.optimizers.legacy):
        optimizer._resource_apply_dense = step


def _adaptive(optimizers: Any) -> list[Any]:
    names = {name.lower() for name in NAMES}
    return [each for name, each in vars(optimizers).items() if name.lower() in names]


def _loss_scalers() -> list[Any]:
    scalers = [keras.mixed_precision.LossScaleOptimizer]
    if "tf_keras" in sys.modules:
        module = importlib.import_module("tf_keras.src.mixed_precision.loss_scale_optimizer")
        scalers += [module.LossScaleOptimizer, module.LossScaleOptimizerV3]
    return scalers


def _float32() -> None:
    """Layers whose policy says float16 or bfloat16 compute in float32."""
    policies = [keras.DTypePolicy]
    if "tf_keras" in sys.modules:
        policies.append(sys.modules["tf_keras"].mixed_precision.Policy)
    for policy in policies:
        asked = policy.compute_dtype

        def compute_dtype(self: Any, asked: Any = asked) -> Any:
            name = asked.fget(self)
            return "float32" if name in ("float16", "bfloat16") else name

        policy.compute_dtype = property(compute_dtype)

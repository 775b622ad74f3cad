"""Keras in float32 where a script asks for float16 or bfloat16: the arithmetic of a reference run.

Policies keep their names, so that the script takes the same branches and losses are scaled as ever: a
scale that is a power of two changes no bit in float32. What they compute in is float32.
"""

from __future__ import annotations

import sys
import threading
from functools import partial
from typing import Any

import tensorflow as tf

from mpaudit.runtime.keras.family import Family
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.record import LOW_PRECISION

_NOISE = {
    tf.random: (
        *("normal", "truncated_normal", "uniform", "stateless_normal"),
        *("stateless_truncated_normal", "stateless_uniform"),
    ),
    tf.nn: ("dropout",),
    tf.nn.experimental: ("stateless_dropout", "general_dropout"),
}

_CARRIED = ("_keras_mask", "_keras_logits")  # what Keras attaches to tensors


class _Thread(threading.local):
    rounds = False  # whether what is computed now would be in low precision


class Float32:
    """Everything in float32; with `digits`, what is cast, and what layers give, is rounded to as many.

    Rounded are inputs, variables and outputs of layers that would compute in low precision, forward
    and backward: what it costs in digits, without what it costs in range. Layers around others leave
    outputs to those.
    """

    def __init__(self, patches: Patches, digits: int | None = None) -> None:
        self._patches = patches
        self._digits = digits
        self._thread = _Thread()

    def follow(self, family: Family) -> None:
        """Change what Keras 3 computes in from now on."""
        from keras.src.backend.common import variables

        wrap = self._patches.wrap
        wrap(family.policy, "_parse_name", self._around_policy)
        cast = family.cast()
        for module in list(sys.modules.values()):
            if getattr(module, "__dict__", {}).get("cast") is cast:
                wrap(module, "cast", self._around_cast)
        if self._digits is not None:
            wrap(family.layer, "__call__", partial(self._around_call, family))
            wrap(variables.Variable, "_maybe_autocast", self._around_variable)

    def _around_policy(self, original: Call) -> Call:
        def parse(*args: Any, **kwargs: Any) -> Any:
            return tuple("float32" if _low(each) else each for each in original(*args, **kwargs))

        return parse

    def _around_cast(self, original: Call) -> Call:
        def cast(x: Any, dtype: Any, *args: Any, **kwargs: Any) -> Any:
            low = not self._patches.busy and tf.as_dtype(dtype).name in LOW_PRECISION
            result = original(x, tf.float32 if low else dtype, *args, **kwargs)
            return self._rounded(result) if low else result

        return cast

    def _around_call(self, family: Family, original: Call) -> Call:
        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            if family.symbolic(family.flatten((args, kwargs))):
                return original(layer, *args, **kwargs)
            before, rounds = self._thread.rounds, _low(family.policy_of(layer))
            self._thread.rounds = rounds
            try:
                if not rounds:
                    return original(layer, *args, **kwargs)
                if not isinstance(layer, (family.sequential, family.functional)):
                    args, kwargs = family.mapped(self._rounded, (args, kwargs))
                outputs = original(layer, *args, **kwargs)
                return outputs if family.contains(layer) else family.mapped(self._rounded, outputs)
            finally:
                self._thread.rounds = before

        return call

    def _around_variable(self, original: Call) -> Call:
        def value(variable: Any, held: Any) -> Any:
            result = original(variable, held)
            if not (self._thread.rounds and variable._autocast) or self._patches.busy:
                return result
            return self._rounded(tf.convert_to_tensor(result))

        return value

    def _rounded(self, value: Any) -> Any:
        """A float32 tensor, and the gradient that comes back to it, rounded; others as they are."""
        digits = self._digits
        if digits is None or not isinstance(value, tf.Tensor) or value.dtype != tf.float32:
            return value

        def through(tensor: Any) -> Any:
            back = partial(_rounded_gradient, digits)
            return rounded(tensor, digits), back

        result = tf.custom_gradient(through)(value)
        for name in _CARRIED:
            if hasattr(value, name):
                setattr(result, name, getattr(value, name))
        return result


def same_noise(patches: Patches) -> None:
    """Random numbers in low precision are those that float32 would get, rounded.

    TensorFlow draws others for float16 than for float32 from the same seed; two runs could not be
    compared.
    """
    for module, names in _NOISE.items():
        for name in names:
            if hasattr(module, name):
                patches.wrap(module, name, _around_noise)


def _around_noise(original: Call) -> Call:
    def draw(*args: Any, **kwargs: Any) -> Any:
        asked = kwargs.get("dtype")
        if asked is None:
            own = next((each for each in (*args, *kwargs.values()) if _is_half(each)), None)
            asked = None if own is None else own.dtype
        if asked is None or not _low(tf.as_dtype(asked).name):
            return original(*args, **kwargs)
        wide = [_wide(each) for each in args]
        named = {name: _wide(each) for name, each in kwargs.items()}
        if kwargs.get("dtype") is not None:
            named["dtype"] = tf.float32
        return tf.cast(original(*wide, **named), asked)

    return draw


def _rounded_gradient(digits: int, gradient: Any) -> Any:
    return rounded(tf.convert_to_tensor(gradient), digits)


def rounded(value: Any, digits: int) -> Any:
    """A float32 tensor rounded to so many significant bits (half to even), with float32's range."""
    cut = 24 - digits
    bits = tf.bitcast(value, tf.int32)
    odd = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, cut), 1)
    bits = tf.bitwise.bitwise_and(bits + ((1 << (cut - 1)) - 1) + odd, -(1 << cut))
    return tf.where(tf.math.is_finite(value), tf.bitcast(bits, tf.float32), value)


def _is_half(value: object) -> bool:
    return isinstance(value, tf.Tensor) and value.dtype.name in LOW_PRECISION


def _wide(value: Any) -> Any:
    return tf.cast(value, tf.float32) if _is_half(value) else value


def _low(name: str) -> bool:
    """Whether a dtype, or the policy of that name, computes in low precision."""
    return name.removeprefix("mixed_") in LOW_PRECISION

"""Every message about loss scaling in Keras is what Keras says: provoked with Keras 3 and Keras 2."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from mpaudit.rule import catalogue

OF_KERAS_2 = ("missing-gradient-unscale", "double-loss-scaling")
PROVOKED = """
import tensorflow as tf
import {keras} as keras

def optimizer(**arguments):
    return keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(), **arguments)

def scaled_only():
    wrapped, weight = optimizer(), tf.Variable([1.0])
    with tf.GradientTape() as tape:
        loss = wrapped.get_scaled_loss(tf.reduce_sum(weight))
    wrapped.apply_gradients(zip(tape.gradient(loss, [weight]), [weight]))

def wrapped_twice():
    plain = keras.optimizers.SGD()
    kept = keras.mixed_precision.LossScaleOptimizer(plain)
    keras.mixed_precision.LossScaleOptimizer(plain)

for provoke in ({calls}):
    try:
        provoke()
    except Exception as error:
        print(error)
"""
WITH_KERAS_2 = """
    scaled_only,
    wrapped_twice,
    lambda: keras.mixed_precision.LossScaleOptimizer(optimizer()),
"""
WITH_KERAS_3 = """
    lambda: optimizer().get_scaled_loss(1.0),
    lambda: optimizer().get_unscaled_gradients([]),
    lambda: optimizer().minimize,
    lambda: optimizer(dynamic=False, initial_scale=8),
    lambda: optimizer(loss_scale="dynamic"),
    lambda: optimizer(clipnorm=1.0),
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keras", "calls", "rules"),
    [
        ("tf_keras", WITH_KERAS_2, OF_KERAS_2),
        ("keras", WITH_KERAS_3, ("legacy-loss-scale-api",)),
    ],
)
def test_every_message_is_what_keras_says(keras: str, calls: str, rules: tuple[str, ...]) -> None:
    if importlib.util.find_spec(keras) is None or importlib.util.find_spec("tensorflow") is None:
        pytest.skip(f"{keras} not installed")
    done = subprocess.run(
        [sys.executable, "-c", PROVOKED.format(keras=keras, calls=calls)],
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    said = done.stdout + done.stderr
    for rule in rules:
        for message in catalogue()[rule].messages:
            assert message in said, message

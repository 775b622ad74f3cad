"""Which attempt to step the findings of a run in Keras belong to: each optimizer's are counted from 0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from keras_watched import keras, numpy, read, tf, under, watched

from mpaudit.finding import Problem
from mpaudit.protocols import machines

X = numpy.random.default_rng(0).normal(size=(20, 4)).astype("float32")
Y = X[:, :1]


def found(tmp_path: Path, run: Callable[[], object]) -> list[Problem]:
    with under("float32", seed=0), watched(tmp_path, *machines()):
        keras.config.set_dtype_policy("mixed_float16")
        run()
    with read(tmp_path) as reader:
        return list(reader.problems())


def steps(problems: list[Problem], rule: str) -> list[int]:
    return [each.moment.step for each in problems if each.rule == rule and each.moment]


@pytest.mark.parametrize("eager", [True, False])
def test_a_second_model_begins_with_step_0(tmp_path: Path, eager: bool) -> None:
    def run() -> None:
        one = keras.Sequential([keras.layers.Dense(1, name="one")])
        two = keras.Sequential([keras.layers.Dense(1, name="two")])
        for model in (one, two):
            optimizer = keras.optimizers.SGD(0.01)
            model.compile(optimizer=optimizer, loss="mse", run_eagerly=eager)
            model.fit(
                X, Y, batch_size=8, epochs=2, verbose=0
            )  # the last batch is a graph of its own

    assert steps(found(tmp_path, run), "output-not-float32") == [0, 0]


def test_a_mistake_that_comes_late_is_dated_by_its_own_optimizer(tmp_path: Path) -> None:
    def run() -> None:
        models = [keras.Sequential([keras.layers.Dense(1)]) for _ in range(2)]
        made = [keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)) for _ in models]
        for step in range(5):
            for number, (model, optimizer) in enumerate(zip(models, made, strict=True)):
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(tf.square(tf.cast(model(X), tf.float32) - Y))
                    scaled = optimizer.scale_loss(loss)
                weights: Any = model.trainable_variables
                gradients = tape.gradient(scaled, weights)
                if number and step > 2:
                    gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
                optimizer.apply(gradients, weights)

    assert steps(found(tmp_path, run), "clip-scaled-gradients") == [3]

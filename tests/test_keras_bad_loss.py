"""Losses of a Keras run that overflow behind the layers: said, with the line that takes gradients of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
from keras_watched import compiled, read, under, watched

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

WIDTH = 512


def loop(mode: str, weight: float, dtype: str) -> tuple[list[float], list[bool]]:
    """Sums `weight` times outputs up in a dtype; gives the losses, and which steps changed weights."""
    layer = keras.layers.Dense(WIDTH, kernel_initializer="ones")
    model = keras.Sequential([keras.Input((4,)), layer])
    optimizer = keras.optimizers.SGD(0.001)
    optimizer.build(model.trainable_variables)

    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.cast(model(x, training=True), dtype) * weight)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    run, losses, changed = compiled(step, mode), [], []
    for _ in range(3):
        before = layer.get_weights()[0]
        losses.append(float(run(tf.ones([8, 4]))))
        changed.append(bool((layer.get_weights()[0] != before).any()))
    return losses, changed


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_a_sum_in_half_that_overflows_is_told_at_the_tape(tmp_path: Path, mode: str) -> None:
    with watched(tmp_path), under("mixed_float16", seed=0):
        losses, changed = loop(mode, 8.0, "float16")
    assert numpy.isinf(losses).all()  # 8 rows of 512 fours, times 8
    assert all(changed)
    with read(tmp_path) as reader:
        (incident,), (problem,) = reader.incidents(), reader.problems()
    assert (incident.kind, incident.judgement) == ("activation-overflow", "defect")
    assert (incident.first_step, incident.last_step, incident.layer) == (0, 2, "")
    assert problem.message == (
        "the loss is inf in float16, and no layer's output is, first at step 0"
    )
    assert "its gradients were applied" in (problem.consequence or "")
    line = Path(__file__).read_text(encoding="utf-8").splitlines()[problem.span.start.row - 1]
    assert "tape.gradient(" in line


@pytest.mark.parametrize(("weight", "dtype"), [(8.0, "float32"), (1 / 1024, "float16")])
def test_what_is_large_enough_or_small_is_nothing(
    tmp_path: Path, weight: float, dtype: str
) -> None:
    with watched(tmp_path), under("mixed_float16", seed=0):
        losses, _ = loop("function", weight, dtype)
    assert numpy.isfinite(losses).all()
    with read(tmp_path) as reader:
        assert reader.incidents() == []


def test_a_loss_of_outputs_that_are_not_finite_is_the_layers_doing(tmp_path: Path) -> None:
    with watched(tmp_path), under("mixed_float16", seed=0):
        layer = keras.layers.Dense(2, kernel_initializer=keras.initializers.Constant(6e4))
        layer.build((None, 4))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.cast(layer(tf.ones([2, 4])), tf.float32))
        variables = layer.trainable_variables
        keras.optimizers.SGD(0.0).apply(tape.gradient(loss, variables), variables)
    assert numpy.isinf(float(loss))
    with read(tmp_path) as reader:
        assert {each.layer for each in reader.incidents()} == {"dense"}

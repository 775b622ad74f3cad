"""MP903 in runs of Keras: gradients that the cast back to float16 makes zero, against NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from keras_watched import compiled, numbers, read, samples, under, watched

numpy = pytest.importorskip("numpy")
tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")
tf_keras = pytest.importorskip("tf_keras")

from mpaudit.runtime.sampling import sampled  # noqa: E402

PACKAGES = {"keras": keras, "tf_keras": tf_keras}
MODES = ["eager", "function", pytest.param("xla", marks=pytest.mark.slow)]
STEPS = 20


def trained(package: Any, mode: str, weight: float, *, scale: float | None = None) -> list[Any]:
    """Of each step, the gradient that comes to the float16 layer, before it is rounded."""
    layers = package.layers
    model = package.Sequential([layers.Dense(8), layers.Dense(3, dtype="float32")])
    model.build((None, 6))
    optimizer = package.optimizers.SGD(0.0)
    if scale is not None:
        kind = package.mixed_precision.LossScaleOptimizer
        optimizer = kind(optimizer, initial_scale=scale)
    x, y = tf.constant(samples(16, 6)), tf.constant(samples(16, 3) * weight)

    def step(number: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(weight * model(x, training=True) - number * y))
            if scale is not None:
                loss = loss * scale
        gradients = tape.gradient(loss, model.trainable_variables)
        pairs = zip([0.0 * each for each in gradients], model.trainable_variables, strict=True)
        optimizer.apply_gradients(pairs)

    run = compiled(step, mode)
    first, bias, second, offset = (tf.constant(each) for each in model.get_weights())
    half = [tf.cast(each, tf.float16) for each in (x, first, bias)]
    outer = tf.cast(half[0] @ half[1] + half[2], tf.float32) @ second + offset
    found = []
    for number in range(STEPS):
        run(tf.constant(float(number)))
        back = 2 * weight * (weight * outer - number * y) / 48 * (scale or 1.0)
        found.append(tf.matmul(back, second, transpose_b=True).numpy())
    return found


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("mode", MODES)
def test_what_a_cast_makes_zero_is_counted_and_found(tmp_path: Path, name: str, mode: str) -> None:
    package = PACKAGES[name]
    with under("float32", seed=3):
        package.mixed_precision.set_global_policy("mixed_float16")
        with watched(tmp_path):
            gradients = trained(package, mode, 2e-4)
        package.mixed_precision.set_global_policy("float32")
    counted = numpy.abs([each for step, each in enumerate(gradients) if sampled(step)])
    gone = (counted > 0) & (counted <= 2.0**-25)
    with read(tmp_path) as reader:
        row = numbers(reader)["sequential/dense", "backward"]
        (problem,) = [each for each in reader.problems() if each.rule == "gradient-underflow"]
    assert row.flushed_of == counted.size
    assert row.flushed == pytest.approx(gone.sum(), abs=2 if mode == "xla" else 0)
    assert 0.2 < gone.mean() < 1
    over = list(zip(counted, gone, strict=True))[:-1]  # the last step may go on
    shares = [(bad.mean(), step[bad].sum() / step.sum()) for step, bad in over]
    flushed, lost = numpy.mean(shares, axis=0)
    assert lost > 0.1
    told = f"{flushed:.1%} of the gradients of the outputs of layer 'sequential/dense' zero, {lost:.1%}"
    assert mode == "xla" or told in problem.message
    assert "without loss scaling" in problem.consequence
    row_text = Path(__file__).read_text(encoding="utf-8").splitlines()[problem.span.start.row - 1]
    assert "layers.Dense(8)" in row_text


@pytest.mark.parametrize("name", PACKAGES)
def test_a_loss_scale_that_lifts_them_is_no_finding(tmp_path: Path, name: str) -> None:
    package = PACKAGES[name]
    with under("float32", seed=3):
        package.mixed_precision.set_global_policy("mixed_float16")
        with watched(tmp_path):
            gradients = trained(package, "eager", 2e-4, scale=2.0**12)
        package.mixed_precision.set_global_policy("float32")
    counted = numpy.abs([each for step, each in enumerate(gradients) if sampled(step)])
    with read(tmp_path) as reader:
        row = numbers(reader)["sequential/dense", "backward"]
        rules = [each.rule for each in reader.problems()]
    assert (row.flushed, row.flushed_of) == (numpy.sum(counted <= 2.0**-25), counted.size)
    assert "gradient-underflow" not in rules

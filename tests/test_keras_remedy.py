"""Advice of runs of Keras, put into effect: against models that were written to the same end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from mpaudit.protocols import machines  # noqa: E402
from mpaudit.render.outcome import changes  # noqa: E402
from mpaudit.runtime.advice import MARGIN, Advice, advise, outcome  # noqa: E402
from mpaudit.runtime.keras.probe import install  # noqa: E402
from mpaudit.runtime.summary import RunReport, stamp, summarise  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402
from mpaudit.runtime.tracer import Tracer  # noqa: E402

if keras.backend.backend() != "tensorflow":
    pytest.skip("Keras runs on another backend", allow_module_level=True)

ROOT = Path(__file__).parents[1]
X = numpy.random.default_rng(0).normal(size=(32, 12)).astype("float32")
Y = numpy.arange(32) % 4


@pytest.fixture(autouse=True)
def plain_afterwards() -> Iterator[None]:
    yield
    keras.config.set_dtype_policy("float32")


def watched(
    path: Path, loop: Callable[[], Any], remedy: Advice | None = None
) -> tuple[Any, RunReport]:
    """The result of a loop, and the report of it."""
    tracer = Tracer(path, machines())
    uninstall = install(tracer, None, remedy)
    try:
        result = loop()
    finally:
        uninstall()
        tracer.close(0)
    assert tracer.fact("probe_errors") == []
    with Reader(path) as reader:
        return result, summarise(reader, [stamp(each) for each in reader.problems()])


def train(
    spread: float = 0.1,
    scale: float = 2.0**15,
    weight: float = 1.0,
    policy: str = "mixed_float16",
    middle: str | None = None,
    eager: bool = False,
) -> list[float]:
    """The losses of a small training; `middle` is the dtype of the layer that may overflow."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    keras.config.set_dtype_policy(policy)
    wide = keras.initializers.RandomNormal(stddev=spread, seed=1)
    model = keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(16, kernel_initializer=wide, dtype=middle),
            keras.layers.LayerNormalization(),
            keras.layers.Dense(4, dtype="float32"),
        ]
    )
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(0.01 / weight)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=scale)

    def step(inputs: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = weight * loss_of(labels, model(inputs))
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    run = step if eager else tf.function(step)
    return [float(run(tf.constant(X[n::8]), tf.constant(Y[n::8]))) for n in range(8)]


@pytest.mark.parametrize("eager", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_layer_that_overflows_is_kept_in_float32(tmp_path: Path, eager: bool) -> None:
    plain, before = watched(tmp_path / "a.mpa", lambda: train(1e5, eager=eager))
    advice = advise(before)
    assert advice is not None
    assert advice == Advice(("sequential/dense_1",), reasons=advice.reasons, framework="keras")
    assert changes(advice) == ["keep in float32, with dtype=\"float32\": 'sequential/dense_1'"]
    losses, after = watched(tmp_path / "b.mpa", lambda: train(1e5, eager=eager), advice)
    assert losses == train(1e5, middle="float32", eager=eager)
    assert numpy.isnan(plain).all()
    told = outcome(before), outcome(after)
    assert [(each["skipped"], each["overflowing"], each["bad_losses"]) for each in told] == [
        (8, 1, 8),
        (0, 0, 0),
    ]
    assert (told[1]["first_loss"], told[1]["last_loss"]) == (losses[0], losses[-1])
    assert told[1]["seconds_per_step"] > 0
    assert after.paths["sequential/dense_1"].dtypes["output"] == ["float32"]


def test_a_loss_scale_that_is_too_low_starts_where_the_gradients_fit(tmp_path: Path) -> None:
    weight = 2.0**-18

    def loop() -> list[float]:
        return train(scale=1.0, weight=weight, eager=True)

    _, before = watched(tmp_path / "a.mpa", loop)
    advice = advise(before)
    assert advice is not None
    assert advice.init_scale is not None
    tops = [row for flow in before.layers for row in flow.histograms if "gradient" in row.what]
    top = max(max(row.bins) for row in tops if row.counts)
    assert advice.init_scale == min(2.0 ** (15 - MARGIN - top), 2.0**24)
    assert changes(advice) == [f"LossScaleOptimizer(initial_scale={advice.init_scale:.8g})"]
    losses, after = watched(tmp_path / "b.mpa", loop, advice)
    assert losses == train(scale=advice.init_scale, weight=weight, eager=True)
    assert after.scaled is not None
    assert {scale for _, scale in after.scaled.scales} == {advice.init_scale}
    held = outcome(before)["subnormal"], outcome(after)["subnormal"]
    assert held[0] > 0.5
    assert held[1] < 0.1


def test_bfloat16_for_float16_is_another_policy(tmp_path: Path) -> None:
    advice = Advice(dtype="bfloat16", framework="keras")
    assert changes(advice) == ['mixed_precision.set_global_policy("mixed_bfloat16")']
    losses, report = watched(tmp_path / "a.mpa", lambda: train(1e5, eager=True), advice)
    assert numpy.isfinite(losses).all()
    assert report.paths["sequential/dense_1"].dtypes["output"] == ["bfloat16"]
    expected = train(
        1e5, policy="mixed_bfloat16", eager=True
    )  # without a loss scale, which rounds nothing
    numpy.testing.assert_allclose(losses, expected, rtol=1e-6)


def test_an_operation_between_the_layers_is_no_layer_to_keep_in_float32(tmp_path: Path) -> None:
    class Between(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first = keras.layers.Dense(4, kernel_initializer="ones")

        def call(self, inputs: Any) -> Any:
            return self.first(inputs) * 60000.0

    def loop() -> None:
        keras.utils.clear_session()
        keras.config.set_dtype_policy("mixed_float16")
        model = Between()
        optimizer = keras.optimizers.SGD(0.0)
        for _ in range(5):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(tf.ones([2, 4])))
            variables = model.trainable_variables
            tape.gradient(loss, variables)
            optimizer.apply([tf.zeros_like(each.value) for each in variables], variables)

    _, report = watched(tmp_path / "a.mpa", loop)
    (incident,) = [each for each in report.incidents if each.kind == "activation-overflow"]
    advice = advise(report)
    assert advice is not None
    assert advice.empty
    assert advice.beside == (
        f"an operation of {incident.layer!r} itself, outside its layers, overflows in float16: "
        "do it on float32, with tf.cast",
    )


SCRIPT = """
import sys
import numpy
import keras

keras.utils.set_random_seed(1)
keras.config.set_dtype_policy("mixed_float16")
wide = keras.initializers.RandomNormal(stddev=float(sys.argv[1]), seed=1)
model = keras.Sequential([
    keras.Input((12,)),
    keras.layers.Dense(16, activation="relu"),
    keras.layers.Dense(16, kernel_initializer=wide),
    keras.layers.LayerNormalization(),
    keras.layers.Dense(4, dtype="float32"),
])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.SGD(0.01), loss)
x = numpy.random.default_rng(0).normal(size=(64, 12)).astype("float32")
model.fit(x, numpy.arange(64) % 4, batch_size=8, epochs=3, verbose=0)
print("done")
"""


@pytest.mark.slow
def test_apply_tries_runs_and_shows_before_and_after(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT, encoding="utf-8")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mpaudit", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    done = run("run", "--apply", "6", "-o", "a.mpa", "train.py", "1e5")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"  # the trials are not heard
    assert "applies: keep in float32, with dtype=\"float32\": 'sequential/dense_1'" in done.stderr
    assert re.search(r"steps skipped +6 of 6 +0 of 24", done.stderr)
    data = json.loads(run("report", "a.mpa", "--format", "json").stdout)
    assert data["applied"]["advice"]["float32"] == ["sequential/dense_1"]
    assert data["applied"]["before"]["skipped"] == 6
    assert data["applied"]["after"]["bad_losses"] == 0
    none = run("run", "--apply", "6", "-o", "b.mpa", "train.py", "0.1")
    assert "nothing is applied, the script runs as it is" in none.stderr

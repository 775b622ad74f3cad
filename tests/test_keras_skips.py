"""Skipped steps of a Keras run: each is told with the layer in which it began, as far as that is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from keras_watched import MODES, compiled, read, under, watched

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from mpaudit.render import run_json, run_text  # noqa: E402
from mpaudit.runtime.keras.vector import RECENT  # noqa: E402
from mpaudit.runtime.sampling import Sampling  # noqa: E402
from mpaudit.runtime.summary import summarise  # noqa: E402

FORWARD, BACKWARD = "sequential/dense", "sequential/dense_1"
SCALE = 2.0**8


def loop(mode: str, course: list[tuple[float, float]]) -> list[bool]:
    """Each step has a size of the inputs and a weight of the loss; gives which were applied."""
    layers = [
        keras.layers.Dense(4, kernel_initializer="ones"),
        keras.layers.Dense(1, dtype="float32"),
    ]
    model = keras.Sequential([keras.Input((2,)), *layers])
    inner = keras.optimizers.SGD(0.0)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=SCALE)
    optimizer.build(model.trainable_variables)

    def step(size: Any, weight: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(tf.fill([3, 2], size), training=True)) * weight
            loss = optimizer.scale_loss(loss)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    run, applied = compiled(step, mode), []
    for size, weight in course:
        before = int(inner.iterations.numpy())
        run(tf.constant(size), tf.constant(weight))
        applied.append(int(inner.iterations.numpy()) > before)
    return applied


def report(folder: Path, run: Callable[[], Any], sampling: Sampling) -> tuple[Any, dict[int, Any]]:
    """The report, and the layers of each skipped step."""
    with under("mixed_float16", seed=1), watched(folder, sampling=sampling):
        run()
    with read(folder) as reader:
        found = summarise(reader)
    (optimizer,) = json.loads(run_json.render(found))["optimizers"]
    return found, {each["step"]: each["layers"] for each in optimizer["skips"]}


GOOD, LARGE, STEEP = (1.0, 1.0), (40000.0, 1.0), (1.0, numpy.inf)


@pytest.mark.parametrize("mode", MODES)
def test_a_skipped_step_is_told_with_the_layer_where_it_began(tmp_path: Path, mode: str) -> None:
    course = [GOOD] * 2 + [LARGE] * 3 + [GOOD] * 3
    applied: list[bool] = []
    found, skips = report(tmp_path, lambda: applied.extend(loop(mode, course)), Sampling(every=1))
    assert [step for step, each in enumerate(applied) if not each] == [2, 3, 4]
    assert skips == {key: [FORWARD] for key in (2, 3, 4)}
    assert run_text.render(found).count(f"skipped: {FORWARD}") == 3


@pytest.mark.parametrize("mode", MODES)
def test_gradients_that_overflow_are_told_at_the_layer_they_come_to(
    tmp_path: Path, mode: str
) -> None:
    course = [GOOD] * 3 + [STEEP] + [GOOD] * 3
    _, skips = report(tmp_path, lambda: loop(mode, course), Sampling(every=1))
    assert skips == {3: [BACKWARD]}


SLOW_IN_XLA = ["eager", "function", pytest.param("xla", marks=pytest.mark.slow)]


@pytest.mark.parametrize("mode", SLOW_IN_XLA)
def test_a_step_between_two_others_is_told_with_its_own_layer(tmp_path: Path, mode: str) -> None:
    """It was skipped for another reason than those around it, which is told as well."""
    course = [GOOD, LARGE, GOOD, STEEP, GOOD, LARGE, GOOD]
    found, skips = report(tmp_path, lambda: loop(mode, course), Sampling(every=1))
    assert skips == {1: [FORWARD], 3: [BACKWARD], 5: [FORWARD]}
    told = {(each.layer, each.kind): (each.first_step, each.last_step) for each in found.incidents}
    assert told[FORWARD, "activation-overflow"] == (1, 5)
    assert told[BACKWARD, "gradient-overflow"] == (3, 3)


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_what_is_forgotten_between_two_others_is_not_guessed(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tap knows the bad attempts of less than RECENT back, and the first one, until it is read."""
    monkeypatch.setattr("mpaudit.runtime.tracer.FLUSH_EVERY", 1e9)
    course = [GOOD, LARGE, GOOD, LARGE, *[GOOD] * (RECENT - 1), LARGE, GOOD, STEEP]
    found, skips = report(tmp_path, lambda: loop(mode, course), Sampling(every=1))
    last = RECENT + 3
    assert skips == {1: [FORWARD], 3: [], last: [FORWARD], last + 2: [BACKWARD]}
    assert "where it began" not in run_text.render(found)  # no other sampling would tell more


@pytest.mark.parametrize("mode", SLOW_IN_XLA)
def test_two_optimizers_of_one_pass_skip_for_one_reason(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a GAN: the second one gets gradients that were computed before the first one's attempt."""
    monkeypatch.setattr(
        "mpaudit.runtime.tracer.FLUSH_EVERY", 1e9
    )  # nothing is read between the two
    course = [GOOD, LARGE, GOOD, GOOD, STEEP, GOOD, LARGE, GOOD]
    with under("mixed_float16", seed=1), watched(tmp_path, sampling=Sampling(every=1)):
        first = keras.layers.Dense(4, kernel_initializer="ones")
        second = keras.layers.Dense(1, dtype="float32")
        model = keras.Sequential([keras.Input((2,)), first, second])
        optimizers = [
            keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0), initial_scale=SCALE)
            for _ in range(2)
        ]
        pairs = list(zip(optimizers, (first, second), strict=True))
        for optimizer, layer in pairs:
            optimizer.build(layer.trainable_variables)

        def step(size: Any, weight: Any) -> None:
            with tf.GradientTape(persistent=True) as tape:
                loss = tf.reduce_mean(model(tf.fill([3, 2], size), training=True)) * weight
                losses = [optimizer.scale_loss(loss) for optimizer in optimizers]
            found = [
                tape.gradient(scaled, layer.trainable_variables)
                for scaled, (_, layer) in zip(losses, pairs, strict=True)
            ]
            for (optimizer, layer), gradients in zip(pairs, found, strict=True):
                optimizer.apply(gradients, layer.trainable_variables)

        run = compiled(step, mode)
        for size, weight in course:
            run(tf.constant(size), tf.constant(weight))
    with read(tmp_path) as reader:
        found = summarise(reader)
    told = json.loads(run_json.render(found))
    skips = [
        {skip["step"]: skip["layers"] for skip in each["skips"]} for each in told["optimizers"]
    ]
    assert skips == [{1: [FORWARD], 4: [BACKWARD], 6: [FORWARD]}] * 2
    places = {(each["layer"], each["kind"]) for each in told["events"]}
    origins = {(FORWARD, "activation-overflow"), (BACKWARD, "gradient-overflow")}
    assert places == {
        *origins,
        ("", "activation-nan"),
    }  # the loss itself, where its weight is infinite


def test_a_step_that_was_not_looked_at_is_not_explained(tmp_path: Path) -> None:
    course = [GOOD] * 33 + [LARGE] + [GOOD] * 8
    found, skips = report(tmp_path, lambda: loop("function", course), Sampling())
    assert skips == {33: []}
    told = run_text.render(found)
    assert "where it began is not known of 33: `--every 1` looks at every step" in told

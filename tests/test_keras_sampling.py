"""`--light` and `--every` in runs of Keras: what is measured then, and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from keras_watched import MODES, compiled, read, under, watched

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from mpaudit.runtime.advice import advise  # noqa: E402
from mpaudit.runtime.sampling import AFTER, EVERY, FIRST, Sampling, told  # noqa: E402
from mpaudit.runtime.summary import summarise  # noqa: E402


@pytest.fixture(autouse=True)
def mixed() -> Iterator[None]:
    with under("mixed_float16", seed=5):
        yield


@pytest.mark.parametrize("mode", MODES)
def test_a_light_look_measures_the_gradients_that_the_optimizer_gets(
    tmp_path: Path, mode: str
) -> None:
    seen: list[list[Any]] = []

    def loop() -> None:
        model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(1, dtype="float32")])
        model.build((None, 3))
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.01), initial_scale=64.0
        )

        def step(batch: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = optimizer.scale_loss(tf.reduce_mean(model(batch) ** 2))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
            return gradients

        run = compiled(step, mode)
        for size in (1.0, 2.0, numpy.inf, 3.0):
            seen.append([each.numpy() for each in run(tf.fill([2, 3], size))])

    with watched(tmp_path, sampling=Sampling(light=True)):
        loop()
    with read(tmp_path) as reader:
        rows = {row.layer: row for row in reader.statistics()}
        incidents, (skipped,) = reader.incidents(), [a for a in reader.attempts() if not a.applied]
        report = summarise(reader)
        assert reader.histograms() == {}
        assert reader.peaks() == {}
    assert {row.phase for row in rows.values()} == {"update"}
    for place, layer in enumerate(("sequential/dense", "sequential/dense_1")):
        gradients = [step[2 * place + n] for step in seen for n in (0, 1)]
        row = rows[layer]
        finite = [numpy.abs(each[numpy.isfinite(each)]).max(initial=0) for each in gradients]
        assert row.amax == pytest.approx(max(finite), rel=1e-3 if mode == "xla" else 1e-6)
        assert (row.calls, row.elements) == (8, sum(each.size for each in gradients))
        assert row.inf == sum(int(numpy.isinf(each).sum()) for each in gradients)
        assert row.nan == sum(int(numpy.isnan(each).sum()) for each in gradients)
        assert (row.first_bad_step, row.last_bad_step) == (2, 2)
    assert (skipped.first, skipped.last) == (2, 2)
    assert {(each.first_step, each.judgement) for each in incidents} == {(2, "benign")}
    assert report.light
    assert advise(report) is None
    assert "numbers in layers" in (told(report.meta["sampling"]) or "")
    assert [flow.dtypes["output"] for flow in report.layers] == [["float16"], ["float32"]]


def due(step: int, every: int) -> bool:
    """Whether a step is looked at where nothing went wrong: numbers are counted at powers of two."""
    return step < FIRST or step % every == 0 or step in (16, 32, 64)


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_the_steps_after_a_skipped_one_are_looked_at(tmp_path: Path, mode: str) -> None:
    """By default; the step itself was one that nobody looked at."""
    steps, bad = 48, 33
    sizes = [1.0 + step / 64 for step in range(steps)]
    sizes[bad] = numpy.inf

    def loop() -> None:
        layer = keras.layers.Dense(1, kernel_initializer="ones", dtype="float32")
        layer.build((None, 1))
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0))

        def step(batch: Any) -> None:
            with tf.GradientTape() as tape:
                loss = optimizer.scale_loss(tf.reduce_sum(layer(batch)))
            variables = layer.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)

        optimizer.build(layer.trainable_variables)
        run = compiled(step, mode)
        for size in sizes:
            run(tf.fill([3, 1], size))

    with watched(tmp_path, sampling=Sampling()):
        loop()
    with read(tmp_path) as reader:
        forward = next(row for row in reader.statistics() if row.phase == "forward")
        skipped = [row for row in reader.attempts() if row.applied is False]
        assert reader.meta["sampling"] == {"every": EVERY}
    looked = [s for s in range(steps) if due(s, EVERY) or bad < s <= bad + AFTER]
    assert [(row.first, row.last) for row in skipped] == [(bad, bad)]
    assert (forward.calls, forward.inf) == (len(looked), 0)
    assert forward.amax == numpy.float32(sizes[looked[-1]]).item()


@pytest.mark.parametrize("mode", MODES)
def test_every_so_many_steps_are_looked_at_and_those_after_a_bad_one(
    tmp_path: Path, mode: str
) -> None:
    every, steps, bad = 8, 40, 24
    sizes = [float(2 ** (step % 7)) for step in range(steps)]
    sizes[bad] = numpy.inf
    sizes[bad + 2] = 1000.0

    def loop() -> None:
        layer = keras.layers.Dense(1, kernel_initializer="ones", dtype="float32")
        layer.build((None, 1))
        optimizer = keras.optimizers.SGD(0.0)

        def step(batch: Any) -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(batch))
            (kernel, _) = tape.gradient(loss, layer.trainable_variables)
            optimizer.apply([tf.zeros_like(kernel)], layer.trainable_variables[:1])

        run = compiled(step, mode)
        for size in sizes:
            run(tf.fill([3, 1], size))

    with watched(tmp_path, sampling=Sampling(every=every)):
        loop()
    with read(tmp_path) as reader:
        rows = {row.phase: row for row in reader.statistics()}
        (layer,) = reader.layers()
        assert reader.meta["sampling"] == {"every": every}
    looked = [s for s in range(steps) if due(s, every) or bad < s <= bad + AFTER]
    assert (layer.calls, layer.calls_per_step) == (steps, 1)
    for row in rows.values():
        assert (row.calls, row.elements) == (len(looked), 3 * len(looked))
    finite = [sizes[step] for step in looked if step != bad]
    assert (rows["forward"].amax, rows["backward"].amax) == (max(finite), 1.0)
    assert max(finite) == 1000.0
    assert (rows["forward"].inf, rows["forward"].first_bad_step) == (3, bad)


@pytest.mark.parametrize("mode", ["function", pytest.param("xla", marks=pytest.mark.slow)])
def test_weights_and_their_gradients_are_counted_in_the_same_steps(
    tmp_path: Path, mode: str
) -> None:
    """Whether all steps are looked at or some: numbers are counted in steps 0, 1, 2, 4, 8 and 16."""

    def loop() -> None:
        layer = keras.layers.Dense(2, kernel_initializer="ones", dtype="float32")
        layer.build((None, 3))
        optimizer = keras.optimizers.SGD(0.01)

        def step(batch: Any) -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(layer(batch) ** 2)
            variables = layer.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)

        optimizer.build(layer.trainable_variables)
        run = compiled(step, mode)
        for size in range(20):
            run(tf.fill([4, 3], 1.0 + size))

    found = []
    for every in (1, 10):
        folder = tmp_path / str(every)
        folder.mkdir()
        with watched(folder, sampling=Sampling(every=every)):
            loop()
        with read(folder) as reader:
            (rows,) = reader.histograms().values()
            found.append({(row.what, row.tensors, row.first, row.counts) for row in rows})
    assert found[0] == found[1]
    assert {(what, tensors) for what, tensors, *_ in found[0]} >= {
        ("weight", 12),
        ("weight_gradient", 12),
    }

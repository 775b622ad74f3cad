"""Numbers by power of two in runs of Keras, against NumPy on tensors of the same arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from keras_watched import MODES, compiled, ended, octaves, read, under, watched

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from mpaudit.runtime.histogram import Histogram  # noqa: E402
from mpaudit.runtime.keras.clock import Clock  # noqa: E402
from mpaudit.runtime.keras.octaves import Octaves  # noqa: E402
from mpaudit.runtime.keras.rows import SLOTS  # noqa: E402
from mpaudit.runtime.octaves import SAMPLE  # noqa: E402
from mpaudit.runtime.octaves import read as spread  # noqa: E402
from mpaudit.runtime.record import LARGEST  # noqa: E402
from mpaudit.runtime.sampling import sampled  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402


@pytest.fixture(autouse=True)
def mixed() -> Iterator[None]:
    with under("mixed_float16", seed=5):
        yield


def histograms(folder: Path) -> dict[tuple[str, str], list[Histogram]]:
    found: dict[tuple[str, str], list[Histogram]] = {}
    with read(folder) as reader:
        for rows in reader.histograms().values():
            for row in rows:
                found.setdefault((row.layer, row.what), []).append(row)
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_octave_is_counted_as_numpy_does(mode: str, dtype: str) -> None:
    random = numpy.random.default_rng(1)
    lowest = -126 if dtype == "float64" else -149  # below, a float64 is zero as a float32 here
    powers = numpy.arange(lowest, 128.0)
    values = numpy.concatenate([2.0**powers, -1.5 * 2.0 ** powers[:-1], random.normal(size=500)])
    values = numpy.concatenate([values, [0.0, -0.0, numpy.inf, -numpy.inf, numpy.nan]])
    with numpy.errstate(over="ignore"):
        tensor = tf.constant(values.astype(tf.as_dtype(dtype).as_numpy_dtype))
    clock = Clock()
    counts = Octaves(clock)
    note = compiled(ended(counts.note), mode)
    for _ in range(4):  # step 3 is no sampled one
        note(tensor)
        clock.advance()
    found = list(counts.read(clock.read()))
    assert [(each.tick, each.tensors, each.elements) for each in found] == [
        (step, 1, len(values)) for step in (0, 1, 2)
    ]
    exact = tensor.numpy().astype(numpy.float64)
    for each in found:
        first, inside, zeros, inf, nan = spread(each.counts)
        assert {first + n: count for n, count in enumerate(inside) if count} == octaves(exact)
        assert zeros == numpy.count_nonzero(exact == 0)
        assert (inf, nan) == (numpy.isinf(exact).sum(), 1)
    assert list(counts.read(clock.read())) == []


@pytest.mark.parametrize("mode", MODES)
def test_the_sample_of_a_large_tensor_is_spread_over_all_of_it(mode: str) -> None:
    rows = 64 * SAMPLE // 32
    column = 2.0 ** numpy.arange(32, dtype="float32")  # one octave for each column of 32
    tensor = tf.constant(numpy.tile(column, (rows, 1)))
    clock = Clock()
    counts = Octaves(clock)
    compiled(ended(counts.note), mode)(tensor)
    (found,) = counts.read(1)
    first, inside, *others = spread(found.counts)
    assert (found.elements, sum(inside), first, others) == (64 * SAMPLE, SAMPLE, 0, [0, 0, 0])
    assert len(inside) == 32
    assert min(inside) > 0.9 * SAMPLE / 32
    assert max(inside) < 1.1 * SAMPLE / 32


@pytest.mark.parametrize("mode", MODES)
def test_only_the_first_calls_of_a_step_and_the_last_steps_are_held(mode: str) -> None:
    clock = Clock()
    counts = Octaves(clock)
    note = compiled(ended(counts.note), mode)
    steps = 301
    for _ in range(steps):
        for _ in range(10 if int(clock.read()) == 300 else 1):
            note(tf.ones([2]))
        clock.advance()
    found = {each.tick: each.tensors for each in counts.read(clock.read())}
    expected = [step for step in range(steps) if sampled(step)]
    if mode != "eager":
        expected = expected[-SLOTS:]
    assert found == {step: 8 if step == 300 else 1 for step in expected}


@pytest.mark.parametrize("mode", MODES)
def test_the_histograms_of_a_run_are_those_of_the_arithmetic_by_hand(
    tmp_path: Path, mode: str
) -> None:
    random = numpy.random.default_rng(2)
    x = random.normal(size=(8, 6)).astype("float32")
    y = random.normal(size=(8, 3)).astype("float32")
    found: dict[tuple[str, str, float], list[Any]] = {}
    with watched(tmp_path):
        model = keras.Sequential(
            [keras.layers.Dense(7, activation="relu"), keras.layers.Dense(3, dtype="float32")]
        )
        model.build((None, 6))
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.01), initial_scale=1024.0, dynamic_growth_steps=3
        )

        def step(inputs: Any, targets: Any) -> None:
            with tf.GradientTape() as tape:
                difference = model(inputs, training=True) - targets
                scaled = optimizer.scale_loss(tf.reduce_mean(difference * difference))
            gradients = tape.gradient(scaled, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)

        run = compiled(step, mode)
        for number in range(6):
            scale = 1024.0 * 2 ** (number // 3)
            first, bias, second, offset = (tf.constant(w) for w in model.get_weights())
            half = [tf.cast(each, tf.float16) for each in (x, first, bias)]
            before = half[0] @ half[1] + half[2]
            hidden = tf.nn.relu(before)
            outer = tf.cast(hidden, tf.float32) @ second + offset
            back = scale * 2 * (outer - y) / tf.size(y, tf.float32)
            hidden_back = tf.cast(back @ tf.transpose(second), tf.float16)
            before_back = tf.where(before > 0, hidden_back, tf.zeros_like(hidden_back))
            gradients = {
                "dense": [tf.transpose(half[0]) @ before_back, tf.reduce_sum(before_back, 0)],
                "dense_1": [
                    tf.transpose(tf.cast(hidden, tf.float32)) @ back,
                    tf.reduce_sum(back, 0),
                ],
            }
            if sampled(number):
                kinds: list[tuple[str, str, float, list[Any]]] = [
                    ("dense", "activation", 1.0, [hidden]),
                    ("dense_1", "activation", 1.0, [outer]),
                    ("dense", "gradient", scale, [hidden_back]),
                    ("dense_1", "gradient", scale, [back]),
                    ("dense", "weight", 1.0, [first, bias]),
                    ("dense_1", "weight", 1.0, [second, offset]),
                    *((name, "weight_gradient", scale, each) for name, each in gradients.items()),
                ]
                for name, what, power, tensors in kinds:
                    found.setdefault((f"sequential/{name}", what, power), []).extend(tensors)
            run(tf.constant(x), tf.constant(y))
    rows = [row for each in histograms(tmp_path).values() for row in each]
    assert {(row.layer, row.what, row.scale) for row in rows} == found.keys()
    for row in rows:
        tensors = found[row.layer, row.what, row.scale]
        assert (row.tensors, row.elements) == (len(tensors), sum(int(tf.size(t)) for t in tensors))
        dtype = "float16" if row.layer.endswith("dense") and row.what[0] in "ag" else "float32"
        assert (row.dtype, row.inf, row.nan) == (dtype, 0, 0)
        flat = numpy.concatenate([numpy.asarray(t, numpy.float64).reshape(-1) for t in tensors])
        expected = octaves(flat)
        apart = (Counter(row.bins) - expected).total()  # sums that associate otherwise
        assert apart <= (0.03 if mode == "xla" or "gradient" in row.what else 0.0) * flat.size
        assert abs(row.zeros - numpy.count_nonzero(flat == 0)) <= 2
        assert row.sampled == row.elements


@pytest.mark.parametrize("scales", [True, False])
def test_gradients_of_a_loss_that_is_not_scaled_are_not_said_to_be(
    tmp_path: Path, scales: bool
) -> None:
    """An optimizer has a loss scale all the same: it divides by it (MP504)."""
    with watched(tmp_path):
        model = keras.Sequential([keras.layers.Dense(1)])
        model.build((None, 2))
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.cast(model(tf.ones([4, 2]), training=True), "float32"))
            loss = optimizer.scale_loss(loss) if scales else loss
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
    rows = [row for each in histograms(tmp_path).values() for row in each if "gradient" in row.what]
    assert {row.what for row in rows} == {"gradient", "weight_gradient"}
    assert {row.scale for row in rows} == {2.0**15 if scales else 1.0}


@pytest.mark.slow
def test_fit_and_its_validation(tmp_path: Path) -> None:
    with watched(tmp_path):
        model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(1, dtype="float32")])
        model.compile("sgd", "mse", jit_compile=True)
        x = numpy.ones((16, 3), "float32")
        model.fit(x, x[:, :1], batch_size=4, epochs=3, validation_data=(x, x[:, :1]), verbose=0)
    found = histograms(tmp_path)
    sampled_steps = sum(map(sampled, range(12)))
    kinds = ["activation", "gradient", "weight", "weight_gradient"]
    assert sorted(what for layer, what in found if layer == "sequential/dense") == kinds
    for (layer, what), (row,) in found.items():
        each = {"sequential/dense": 16, "sequential/dense_1": 4}[layer]
        each = each if what in ("activation", "gradient") else {16: 12 + 4, 4: 4 + 1}[each]
        assert row.elements == sampled_steps * each
        assert row.scale == (2.0**15 if "gradient" in what else 1.0)


def test_two_models_with_layers_of_one_path_have_gradients_of_their_own(tmp_path: Path) -> None:
    gradients = {}
    with watched(tmp_path):
        kept = []
        for factor, width in ((1.0, 2), (1024.0, 3)):
            keras.utils.clear_session()  # names begin anew
            layer = keras.layers.Dense(width, kernel_initializer="ones", use_bias=False)
            optimizer = keras.optimizers.SGD(0.0)
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.cast(layer(tf.ones([1, 4])), tf.float32)) * factor
            (gradient,) = tape.gradient(loss, layer.trainable_variables)
            optimizer.apply([gradient], layer.trainable_variables)
            gradients[width] = octaves(gradient)
            kept.append((layer, optimizer))
        assert [layer.path for layer, _ in kept] == ["dense", "dense"]
    found = histograms(tmp_path)
    for path, width in (("dense", 2), ("dense#2", 3)):
        (row,) = found[path, "weight_gradient"]
        assert (Counter(row.bins), row.elements) == (gradients[width], 4 * width)


@pytest.mark.parametrize("mode", ["function", "xla", "fit"])
def test_a_layer_that_rises_towards_65504_is_foretold(tmp_path: Path, mode: str) -> None:
    steps = 40
    sizes = [1.0 + 0.55 * step for step in range(steps)]
    with watched(tmp_path):
        inputs = keras.Input((2,))
        first = keras.layers.Dense(
            2, kernel_initializer=keras.initializers.Constant(1024.0), use_bias=False
        )
        model = keras.Model(inputs, keras.layers.Dense(1, dtype="float32")(first(inputs)))
        x = numpy.repeat(numpy.array(sizes, "float32"), 8).reshape(-1, 2)
        y = numpy.zeros((len(x), 1), "float32")
        model.compile(keras.optimizers.SGD(0.0), "mse")
        if mode == "fit":
            model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        else:
            optimizer = keras.optimizers.SGD(0.0)

            def step(batch: Any) -> None:
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(model(batch))
                gradients = tape.gradient(loss, model.trainable_variables)
                optimizer.apply(gradients, model.trainable_variables)

            run = compiled(step, mode)
            for number in range(steps):
                run(tf.constant(x[4 * number : 4 * number + 4]))
        outputs = [float(numpy.float16(2048.0 * numpy.float16(size))) for size in sizes]
    with Reader(tmp_path / "run.mpa") as reader:
        peaks, problems = reader.peaks(), reader.problems()
    assert set(peaks) == {"dense"}
    assert (peaks["dense"].steps, peaks["dense"].width) == (steps, 1)
    assert list(peaks["dense"].peaks) == pytest.approx(outputs, rel=2e-3)
    (told,) = [each for each in problems if each.rule == "low-headroom"]
    assert "layer 'dense'" in told.message
    assert outputs[-1] < LARGEST["float16"]
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert "keras.layers.Dense(" in source[told.span.start.row - 1]

"""The probe on Keras 2 (tf_keras): every number is computed a second time, without the probe."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from keras_watched import (
    Heard,
    attempts,
    batches,
    compiled,
    numbers,
    octaves,
    read,
    samples,
    watched,
)

numpy = pytest.importorskip("numpy")
tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("tf_keras")

import mpaudit  # noqa: E402
from mpaudit.event import (  # noqa: E402
    GradientsApplied,
    LayerMade,
    LossComputed,
    LossScaled,
    ModelMade,
    OptimizerWrapped,
    PolicySet,
    TapeGradient,
    TapeGradientsUnscaled,
)
from mpaudit.protocols import machines  # noqa: E402
from mpaudit.runtime.advice import Advice  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402

ROOT = Path(__file__).parents[1]
QUICK = ["eager", "function", pytest.param("xla", marks=pytest.mark.slow)]
BOTH = ["eager", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("function", "xla"))]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    from tensorflow.python.framework import config

    keras.backend.clear_session()
    keras.mixed_precision.set_global_policy("mixed_float16")
    keras.utils.set_random_seed(7)
    config.enable_op_determinism()
    yield
    config.disable_op_determinism()
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("mode", QUICK)
def test_numbers_of_layers_are_those_of_the_same_arithmetic_by_hand(
    tmp_path: Path, mode: str
) -> None:
    x, y = samples(24, 6), samples(24, 3)
    factor = 64.0
    with watched(tmp_path):
        model = keras.Sequential(
            [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3, dtype="float32")]
        )
        model.build((None, 6))
        optimizer = keras.mixed_precision.LossScaleOptimizer(
            keras.optimizers.SGD(0.01), initial_scale=factor
        )

        def step(inputs: Any, targets: Any) -> None:
            with tf.GradientTape() as tape:
                difference = model(inputs, training=True) - targets
                scaled = optimizer.get_scaled_loss(tf.reduce_sum(difference * difference))
            gradients = tape.gradient(scaled, model.trainable_variables)
            gradients = optimizer.get_unscaled_gradients(gradients)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        run = compiled(step, mode)
        hidden, outer, hidden_back, outer_back, weight_back = [], [], [], [], []
        for inputs, targets in batches((x, y), 8):
            first, bias, second, offset = (tf.constant(w) for w in model.get_weights())
            half = [tf.cast(each, tf.float16) for each in (inputs, first, bias)]
            hidden.append(tf.nn.relu(half[0] @ half[1] + half[2]))
            outer.append(tf.cast(hidden[-1], tf.float32) @ second + offset)
            outer_back.append(2 * factor * (outer[-1] - targets))
            hidden_back.append(tf.cast(outer_back[-1] @ tf.transpose(second), tf.float16))
            weight_back += [tf.transpose(tf.cast(hidden[-1], tf.float32)) @ outer_back[-1]]
            weight_back += [tf.reduce_sum(outer_back[-1], 0)]
            run(inputs, targets)
    with read(tmp_path) as reader:
        found, layers, dtypes = numbers(reader), reader.layers(), reader.dtypes()
        histograms = {
            (row.layer, row.what): row for rows in reader.histograms().values() for row in rows
        }
        states = attempts(reader)
    expected = {
        ("sequential/dense", "forward"): ("float16", hidden),
        ("sequential/dense", "backward"): ("float16", hidden_back),
        ("sequential/dense_1", "forward"): ("float32", outer),
        ("sequential/dense_1", "backward"): ("float32", outer_back),
    }
    assert found.keys() == expected.keys()
    for place, (dtype, tensors) in expected.items():
        row = found[place]
        assert (row.dtype, row.calls) == (dtype, 3)
        assert row.elements == sum(int(tf.size(each)) for each in tensors)
        assert (row.inf, row.nan, row.first_bad_step) == (0, 0, None)
        amax = max(float(tf.reduce_max(tf.abs(each))) for each in tensors)
        # a graph rounds a matmul, its bias and activation to float16 once, as without the probe
        assert row.amax == pytest.approx(amax, rel=1e-6 if mode == "eager" else 2e-3)
    assert [(each.path, each.type, each.calls, each.calls_per_step) for each in layers] == [
        ("sequential/dense", "Dense", 3, 1),
        ("sequential/dense_1", "Dense", 3, 1),
    ]
    flows = ("input", "output", "output_grad", "parameter", "parameter_grad")
    assert dtypes == {
        path: dict(zip(flows, ([each] for each in names), strict=True))
        for path, names in (
            ("sequential/dense", ("float32", "float16", "float16", "float32", "float32")),
            ("sequential/dense_1", ("float16", "float32", "float32", "float32", "float32")),
        )
    }
    weights = histograms["sequential/dense_1", "weight_gradient"]  # as the loss scale made them
    counted = Counter({n: c for n, c in enumerate(weights.counts, weights.first) if c})
    if mode == "eager":
        assert counted == sum((octaves(each) for each in weight_back), Counter())
    assert (weights.scale, weights.tensors, weights.elements) == (factor, 6, 3 * 27)
    assert states == dict.fromkeys(range(3), (True, factor))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("mode", QUICK)
def test_skipped_steps_and_the_scale_in_force(tmp_path: Path, mode: str, legacy: bool) -> None:
    weights = [1.0, numpy.inf, 1.0, 1.0, numpy.nan, numpy.inf, numpy.inf, 1.0]
    with watched(tmp_path):
        layer = keras.layers.Dense(1, dtype="float32")
        layer.build((None, 2))
        kind = keras.optimizers.legacy.SGD if legacy else keras.optimizers.SGD
        optimizer = keras.mixed_precision.LossScaleOptimizer(
            kind(0.01), initial_scale=4.0, dynamic_growth_steps=2
        )
        expected = {}

        def step(inputs: Any, weight: Any) -> None:
            with tf.GradientTape() as tape:
                loss = optimizer.get_scaled_loss(tf.reduce_mean(layer(inputs)) * weight)
            gradients = optimizer.get_unscaled_gradients(
                tape.gradient(loss, layer.trainable_variables)
            )
            optimizer.apply_gradients(zip(gradients, layer.trainable_variables, strict=True))

        run = compiled(step, mode)
        for number, weight in enumerate(weights):
            scale, before = float(optimizer.loss_scale), layer.get_weights()[0].tobytes()
            run(tf.ones([4, 2]), tf.constant(weight))
            expected[number] = layer.get_weights()[0].tobytes() != before, scale
        assert int(optimizer.iterations) == len(weights)  # of no use: skipped ones count here
    with read(tmp_path) as reader:
        assert attempts(reader) == expected
        (kind_seen,) = [each.type for each in reader.optimizers()]
        given = reader.meta["scaler"]
    assert kind_seen == type(optimizer).__name__
    assert given == {"init_scale": 4.0, "growth_interval": 2}
    assert [applied for applied, _ in expected.values()] == [numpy.isfinite(w) for w in weights]
    assert [scale for _, scale in expected.values()] == [4.0, 4.0, 2.0, 2.0, 4.0, 2.0, 1.0, 1.0]


def test_a_scale_that_is_fixed_skips_nothing(tmp_path: Path) -> None:
    with watched(tmp_path):
        layer = keras.layers.Dense(1, dtype="float32")
        wrap = keras.mixed_precision.LossScaleOptimizer
        fixed = wrap(keras.optimizers.SGD(0.1), dynamic=False, initial_scale=8.0)
        for optimizer in (fixed, keras.optimizers.legacy.SGD(0.1)):
            for weight in (1.0, numpy.inf):
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(layer(tf.ones([1, 2])))
                gradients = [weight * g for g in tape.gradient(loss, layer.trainable_variables)]
                optimizer.apply_gradients(zip(gradients, layer.trainable_variables, strict=True))
        assert not numpy.isfinite(layer.get_weights()[0]).any()
    with read(tmp_path) as reader:
        rows = [(row.optimizer, row.first, row.last, row.applied) for row in reader.attempts()]
        scales = [row.scale for row in reader.attempts()]
    assert (rows, scales) == ([(0, 0, 1, True), (1, 0, 1, True)], [8.0, None])


@pytest.mark.parametrize("mode", ["eager", "fit"])
def test_a_loss_scale_that_cannot_fall_any_further_is_a_finding(tmp_path: Path, mode: str) -> None:
    def spread(_: Any, outputs: Any) -> Any:
        apart = outputs[:, None] - outputs[None]  # a row is at no distance from itself
        return -tf.reduce_mean(tf.sqrt(tf.reduce_sum(apart * apart, axis=-1)))

    with watched(tmp_path):
        model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(2, dtype="float32")])
        model.build((None, 3))
        optimizer = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        inputs = samples(4, 3)
        if mode == "fit":
            model.compile(optimizer, spread)
            model.fit(inputs, inputs, batch_size=4, epochs=24, verbose=0)
        else:
            for _ in range(24):
                with tf.GradientTape() as tape:
                    loss = optimizer.get_scaled_loss(spread(None, model(inputs)))
                gradients = tape.gradient(loss, model.trainable_variables)
                gradients = optimizer.get_unscaled_gradients(gradients)
                optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        assert float(optimizer.loss_scale) == 1.0
    with read(tmp_path) as reader:
        (problem,) = [each for each in reader.problems() if each.rule == "loss-scale-collapse"]
        assert {each.judgement for each in reader.incidents()} == {"defect"}
    told = "all 24 steps from step 0 on were skipped, the scale went from 32768 to 1"
    assert told in problem.message
    row = Path(__file__).read_text(encoding="utf-8").splitlines()[problem.span.start.row - 1]
    assert ("model.fit(" if mode == "fit" else "apply_gradients(") in row


# Layers


class Block(keras.layers.Layer):
    """A layer with layers in it, one of them recurrent."""

    def __init__(self) -> None:
        super().__init__(name="block")
        self.recurrent = keras.layers.RNN(keras.layers.LSTMCell(5), name="recurrent")
        self.counted = keras.metrics.Mean()

    def call(self, inputs: Any) -> Any:
        return self.recurrent(inputs)


class Trained(keras.Model):
    """A model with a training step of its own."""

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
            scaled = self.optimizer.get_scaled_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        gradients = self.optimizer.get_unscaled_gradients(gradients)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


@pytest.mark.parametrize("eagerly", [True, False])
def test_paths_of_nested_layers_and_what_only_finds_out_shapes(
    tmp_path: Path, eagerly: bool
) -> None:
    heard = Heard()
    with watched(tmp_path, heard):
        inputs = keras.Input((4, 3))
        hidden = keras.layers.Dense(5)(Block()(inputs * 2.0))
        head = keras.Sequential([keras.layers.Dense(2, dtype="float32")], name="head")
        outputs = head(hidden)
        model = Trained(inputs, outputs, name="whole")
        model.compile("sgd", "mse", run_eagerly=eagerly)
        model.fit(samples(8, 4, 3), samples(8, 2), batch_size=4, epochs=2, verbose=0)
        model.predict(samples(8, 4, 3), verbose=0)
    with read(tmp_path) as reader:
        layers = {row.path: (row.type, row.calls_per_step) for row in reader.layers()}
        found, dtypes, states = numbers(reader), reader.dtypes(), attempts(reader)
    operation = next(path for path in layers if "multiply" in path)
    assert layers == {
        operation: ("TFOpLambda", 1),
        "whole/block/recurrent/lstm_cell": ("LSTMCell", 4),
        "whole/block/recurrent": ("RNN", 1),
        "whole/dense": ("Dense", 1),
        "whole/head/dense_1": ("Dense", 1),
    }
    assert dtypes["whole/dense"]["output"] == dtypes["whole/head/dense_1"]["input"] == ["float16"]
    assert dtypes["whole/head/dense_1"]["output"] == ["float32"]
    assert found["whole/block/recurrent/lstm_cell", "backward"].amax > 0
    assert len(states) == 4
    made = {event.layer: event.kind for event in heard.of(LayerMade)}
    assert Counter(made.values()) == {"LSTMCell": 1, "RNN": 1, "Block": 1, "Dense": 2}
    whole = heard.of(ModelMade)[-1]
    assert whole.at.filename == __file__
    built = LayerMade | ModelMade | OptimizerWrapped
    kinds = [type(event) for event in heard.events if not isinstance(event, built)]
    (wrapped,) = heard.of(OptimizerWrapped)
    assert (wrapped.by_hand, wrapped.nested) == (False, False)
    cycle = [LossComputed, LossScaled, TapeGradient, TapeGradientsUnscaled, GradientsApplied]
    assert kinds == cycle * 2
    scaled, taken, divided, applied = heard.of(*cycle)[1:5]
    assert taken.scaled_by == (scaled.scaler,) == (divided.optimizer,)
    assert (divided.gradients, divided.result) == (taken.gradients, applied.gradients)
    assert (applied.scales, applied.keras, applied.optimizer) == (True, 2, scaled.scaler)


def test_a_fused_layer_stands_for_its_cell(tmp_path: Path) -> None:
    x = tf.constant(samples(4, 3, 2))
    with watched(tmp_path):
        layer = keras.layers.LSTM(5)
        optimizer = keras.optimizers.SGD(0.1)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.cast(layer(x), tf.float32))
        gradients = tape.gradient(loss, layer.trainable_variables)
        optimizer.apply_gradients(zip(gradients, layer.trainable_variables, strict=True))
    with read(tmp_path) as reader:
        (counted,) = [row for row in reader.histograms()["lstm"] if row.what == "weight_gradient"]
        dtypes = reader.dtypes()
    assert dtypes == {
        "lstm": {
            "input": ["float32"],
            "output": ["float16"],
            "output_grad": ["float16"],
            "parameter": ["float32"],
            "parameter_grad": ["float32"],
        }
    }
    counts = Counter({n: c for n, c in enumerate(counted.counts, counted.first) if c})
    assert counts == sum((octaves(each) for each in gradients), Counter())


def test_fit_scales_and_unscales_by_itself(tmp_path: Path) -> None:
    heard = Heard()
    with watched(tmp_path, heard, *machines()):
        keras.mixed_precision.set_global_policy("mixed_float16")
        model = keras.Sequential(
            [
                keras.layers.Dense(4, activation="relu"),
                keras.layers.Dense(2, activation="softmax"),
            ]
        )
        model.compile("sgd", "sparse_categorical_crossentropy")
        x, y = samples(8, 3), numpy.arange(8) % 2
        model.fit(x, y, batch_size=4, epochs=2, validation_data=(x, y), verbose=0)
    with read(tmp_path) as reader:
        problems = reader.problems()
        states = attempts(reader)
        layers = [(row.path, row.calls_per_step) for row in reader.layers()]
    assert layers == [("sequential/dense", 1), ("sequential/dense_1", 1)]
    assert [scale for _, scale in states.values()] == [32768.0] * 4
    (policy,) = heard.of(PolicySet)
    assert (policy.policy, policy.at.filename) == ("mixed_float16", __file__)
    loss = heard.of(LossComputed)[0]
    assert (loss.loss, loss.wants, loss.got) == (
        "sparse_categorical_crossentropy",
        "softmax",
        "softmax",
    )
    applied = heard.of(GradientsApplied)[0]
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert "model.fit(" in lines[applied.at.start.row - 1]
    (half,) = problems  # the softmax is float16, and so is the loss that Keras 2 computes of it
    assert half.rule == "output-not-float32"
    assert 'activation="softmax"' in lines[half.span.start.row - 1]


# Nothing changes


def trained(mode: str) -> list[bytes]:
    """Weights and losses of one training, as bytes."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(11)
    recurrent = []
    if mode == "function":
        recurrent = [keras.layers.Reshape((4, 2)), keras.layers.RNN(keras.layers.LSTMCell(6))]
    model = keras.Sequential(
        [
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            *([] if mode == "xla" else [keras.layers.Dropout(0.3)]),  # by other numbers in each run
            *recurrent,
            keras.layers.Dense(4, dtype="float32", activation="softmax"),
        ]
    )
    x, y = 40 * samples(64, 5), numpy.arange(64) % 4
    loss_of = keras.losses.SparseCategoricalCrossentropy()
    if mode == "fit":
        model.compile(keras.optimizers.SGD(0.1), loss_of)
        losses = model.fit(x, y, 16, epochs=2, verbose=0).history["loss"]
    else:
        kind = keras.optimizers.legacy.SGD if mode == "eager" else keras.optimizers.SGD
        optimizer = keras.mixed_precision.LossScaleOptimizer(kind(0.1))
        model.build((None, 5))

        def step(inputs: Any, targets: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = loss_of(targets, model(inputs, training=True))
                scaled = optimizer.get_scaled_loss(loss)
            gradients = tape.gradient(scaled, model.trainable_variables)
            gradients = optimizer.get_unscaled_gradients(gradients)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            if mode == "xla":  # its random numbers differ from run to run
                return loss
            return loss + tf.reduce_sum(tf.random.normal([2]))  # the seeds of graphs count too

        run = compiled(step, mode)
        losses = [float(run(*batch)) for batch in (*batches((x, y), 16), *batches((x, y), 16))]
    return [numpy.array(losses).tobytes(), *(each.tobytes() for each in model.get_weights())]


@pytest.mark.parametrize("mode", [*BOTH, "fit"])
def test_training_is_the_same_to_the_last_bit(tmp_path: Path, mode: str) -> None:
    plain = trained(mode)
    with watched(tmp_path):
        seen = trained(mode)
    with read(tmp_path) as reader:
        phases = {(row.layer, row.phase) for row in reader.statistics()}
    heads = {("sequential/dense", "forward"), ("sequential/dense", "backward")}
    assert heads | {("sequential/batch_normalization", "backward")} <= phases
    assert seen == plain


def test_a_model_can_be_saved_exported_and_loaded(tmp_path: Path) -> None:
    x = samples(8, 3)
    with watched(tmp_path):
        model = keras.Sequential([keras.layers.Dense(2, dtype="float32")])
        model.compile("sgd", "mse")
        model.fit(x, x[:, :2], verbose=0)
        expected = model.predict(x, verbose=0)
        model.save(tmp_path / "model.keras")
        model.save(tmp_path / "exported")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        served = tf.saved_model.load(str(tmp_path / "exported"))
        words = keras.layers.TextVectorization(max_tokens=4)
        words.adapt(["a b", "c"])
        words(["a"])
        assert numpy.array_equal(loaded.predict(x, verbose=0), expected)
        assert numpy.allclose(served(x), expected, rtol=1e-6)
    read(tmp_path).close()


def test_uninstalling_puts_everything_back(tmp_path: Path) -> None:
    from tf_keras.src.mixed_precision import loss_scale_optimizer as scaling

    wrapping = (scaling.LossScaleOptimizer, scaling.LossScaleOptimizerV3)
    plain = (keras.optimizers.Optimizer, keras.optimizers.legacy.Optimizer)
    places = [
        (keras.layers.Layer, "__call__"),
        (keras.layers.Layer, "__new__"),
        (keras.losses.Loss, "__call__"),
        (keras.losses.Loss, "__init__"),
        *((kind, name) for kind in (*plain, *wrapping) for name in ("__init__", "apply_gradients")),
        *(
            (kind, name)
            for kind in wrapping
            for name in ("get_scaled_loss", "get_unscaled_gradients")
        ),
    ]
    before = [vars(owner).get(name) for owner, name in places]
    with watched(tmp_path):
        during = [vars(owner).get(name) for owner, name in places]
    after = [vars(owner).get(name) for owner, name in places]
    assert all(one is not other for one, other in zip(before, during, strict=True))
    assert all(one is other for one, other in zip(before, after, strict=True))


def test_what_cannot_be_seen_is_told(tmp_path: Path) -> None:
    with watched(tmp_path), tf.Graph().as_default():
        keras.layers.Dense(1)(tf.ones([1, 2]))
    with Reader(tmp_path / "run.mpa") as reader:
        assert reader.layers() == []
        (told,) = reader.meta["probe_errors"]
    assert told.endswith("layers of Keras 2 are not watched where TensorFlow 1 is imitated")


def test_the_callback_watches_a_fit_of_keras_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    losses, before = [], keras.layers.Layer.__call__
    for callbacks in ([], [mpaudit.keras.Callback("fit.mpa")]):
        keras.backend.clear_session()
        keras.utils.set_random_seed(2)
        model = keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(1, dtype="float32")])
        model.compile("sgd", "mse")
        x = samples(24, 6)
        fitted = model.fit(x, x[:, :1], batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
        losses.append(fitted.history["loss"])
    assert losses[0] == losses[1]
    assert keras.layers.Layer.__call__ is before
    with Reader(tmp_path / "fit.mpa") as reader:
        assert [row.path for row in reader.layers()] == ["sequential/dense", "sequential/dense_1"]
        assert len(attempts(reader)) == 6
        assert reader.meta["probe_errors"] == []


# Findings


LOOP = """
    import numpy
    import tensorflow as tf
    import tf_keras as keras

    {before}
    model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(3{head})])
    {after}
    optimizer = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x = numpy.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = loss_of(tf.range(8) % 3, model(x))
            loss = {scale}
        gradients = tape.gradient(loss, model.trainable_variables)
        gradients = {unscale}
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
"""
RIGHT = {
    "before": "keras.mixed_precision.set_global_policy('mixed_float16')",
    "head": ", dtype='float32'",
    "after": "",
    "scale": "optimizer.get_scaled_loss(loss)",
    "unscale": "optimizer.get_unscaled_gradients(gradients)",
}


UNSCALE = "optimizer.get_unscaled_gradients"


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({}, {}),
        ({"head": ""}, {"output-not-float32": "keras.layers.Dense(4)"}),
        (
            {"before": "", "after": RIGHT["before"]},
            {"policy-after-model": "set_global", "no-mixed-precision": "set_global"},
        ),
        ({"unscale": "gradients"}, {"missing-gradient-unscale": "apply_gradients"}),
        ({"scale": "loss"}, {"missing-scale-loss": "apply_gradients"}),
        (
            {"scale": "loss", "unscale": "gradients"},
            {"keras-loop-without-loss-scaling": "apply_gradients"},
        ),
        (
            {"scale": "optimizer.get_scaled_loss(optimizer.get_scaled_loss(loss))"},
            {"double-loss-scaling": "apply_gradients"},
        ),
        (
            {
                "scale": "loss",
                "unscale": "gradients; other, optimizer = optimizer, keras.optimizers.SGD(0.1)",
            },
            {"unwrapped-second-optimizer": "apply_gradients"},
        ),
        (
            {"before": "keras.mixed_precision.set_global_policy('float32')"},
            {"needless-loss-scale": "LossScaleOptimizer("},
        ),
        (
            {"unscale": f"{UNSCALE}(tf.clip_by_global_norm(gradients, 1.0)[0])"},
            {"clip-scaled-gradients": "clip_by_global_norm"},
        ),
        (
            {"unscale": f"{UNSCALE}([tf.clip_by_norm(g, 1.0) for g in gradients])"},
            {"clip-scaled-gradients": "clip_by_norm"},
        ),
        (
            {
                "unscale": "[tf.clip_by_value(t=g, clip_value_min=-1, clip_value_max=1) for g in gradients]"
            },
            {"missing-gradient-unscale": "apply_gradients"},
        ),
        ({"unscale": f"[tf.clip_by_norm(g, 1.0) for g in {UNSCALE}(gradients)]"}, {}),
        ({"unscale": f"{UNSCALE}(tf.clip_by_global_norm(gradients, optimizer.loss_scale)[0])"}, {}),
    ],
)
def test_mistakes_are_seen_in_the_run(
    tmp_path: Path, wrong: dict[str, str], found: dict[str, str]
) -> None:
    keras.mixed_precision.set_global_policy("float32")
    path = tmp_path / "train.py"
    path.write_text(dedent(LOOP.format(**{**RIGHT, **wrong})), encoding="utf-8")
    with watched(tmp_path, *machines()):
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), {"__name__": "__main__"})
    with read(tmp_path) as reader:
        problems = {each.rule: each.span for each in reader.problems()}
    assert problems.keys() == found.keys()
    lines = path.read_text(encoding="utf-8").splitlines()
    for rule, text in found.items():
        assert text in lines[problems[rule].start.row - 1]


PER_LAYER = """
    import numpy
    import tensorflow as tf
    import tf_keras as keras

    own = keras.mixed_precision.Policy({policy!r})
    model = keras.Sequential([keras.layers.Dense(4, dtype=own), keras.layers.Dense(3, dtype="float32")])
    optimizer = {optimizer}
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x = numpy.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    y = numpy.arange(8) % 3
    model.compile(optimizer, loss_of)
    {train}
"""
FIT = "model.fit(x, y, epochs=3, verbose=0)"
TAPE = """
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
"""
SGD = "keras.optimizers.SGD(0.1)"


@pytest.mark.parametrize(
    ("policy", "optimizer", "train", "found"),
    [
        ("mixed_float16", SGD, FIT, "model.fit("),
        ("mixed_float16", SGD, TAPE, "apply_gradients("),
        ("mixed_float16", f"keras.mixed_precision.LossScaleOptimizer({SGD})", FIT, None),
        ("mixed_bfloat16", SGD, FIT, None),
        ("float32", SGD, TAPE, None),
    ],
)
def test_layers_with_a_policy_of_their_own_are_not_scaled_for(
    tmp_path: Path, policy: str, optimizer: str, train: str, found: str | None
) -> None:
    keras.mixed_precision.set_global_policy("float32")
    path = tmp_path / "train.py"
    text = dedent(PER_LAYER).format(policy=policy, optimizer=optimizer, train=dedent(train))
    path.write_text(text, encoding="utf-8")
    with watched(tmp_path, *machines()):
        exec(compile(text, str(path), "exec"), {"__name__": "__main__"})
    with read(tmp_path) as reader:
        problems = {each.rule: each.span.start.row for each in reader.problems()}
    assert problems.keys() == ({"per-layer-policy-unscaled"} if found else set())
    if found is not None:
        assert found in text.splitlines()[problems["per-layer-policy-unscaled"] - 1]


def test_advice_is_put_into_effect(tmp_path: Path) -> None:
    advice = Advice(float32=("model/dense",), init_scale=16.0, growth_interval=3)
    with watched(tmp_path, remedy=advice):
        inputs = keras.Input((3,))
        hidden = keras.layers.Dense(1)(keras.layers.Dense(4)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(1, dtype="float32")(hidden))
        model.compile("sgd", "mse")
        model.fit(samples(24, 3), samples(24, 1), batch_size=4, verbose=0)
    with read(tmp_path) as reader:
        outputs = {path: flows["output"] for path, flows in reader.dtypes().items()}
        states = attempts(reader)
    assert outputs == {
        "model/dense": ["float32"],
        "model/dense_1": ["float16"],
        "model/dense_2": ["float32"],
    }
    assert states == dict(enumerate(zip([True] * 6, [16.0] * 3 + [32.0] * 3, strict=True)))


def test_another_dtype_is_put_into_effect(tmp_path: Path) -> None:
    with watched(tmp_path, remedy=Advice(dtype="bfloat16")):
        keras.mixed_precision.set_global_policy("mixed_float16")
        layer = keras.layers.Dense(1)
        assert layer(tf.ones([1, 2])).dtype == tf.bfloat16
        assert layer.kernel.true_dtype == tf.float32


# Whole runs


def run(
    folder: Path, script: str, **environment: str
) -> tuple[subprocess.CompletedProcess[str], Reader]:
    (folder / "train.py").write_text(dedent(script), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mpaudit", "run", "-o", "run.mpa", "train.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done, Reader(folder / "run.mpa")


def test_the_articles_script_with_the_keras_of_old(tmp_path: Path) -> None:
    text = (ROOT / "fixtures" / "article" / "run_tensorflow.py").read_text(encoding="utf-8")
    _, reader = run(tmp_path, text, TF_USE_LEGACY_KERAS="1")
    with reader:
        assert reader.meta["probe_errors"] == []
        assert reader.meta["versions"]["tf_keras"] == keras.__version__
        assert [row.path for row in reader.layers()] == ["sequential/dense", "sequential/dense_1"]
        rules = {problem.rule for problem in reader.problems()}
        assert attempts(reader) == dict.fromkeys(range(160), (True, None))
    assert {"no-mixed-precision", "policy-after-model"} <= rules


@pytest.mark.slow
def test_both_generations_in_one_process(tmp_path: Path) -> None:
    script = """
        import keras, tf_keras
        import tensorflow as tf
        for package in (keras, tf_keras):
            model = package.Sequential([package.layers.Dense(1)], name=package.__name__)
            model.compile("sgd", "mse")
            model.fit(tf.ones([8, 2]), tf.ones([8, 1]), batch_size=4, verbose=0)
    """
    _, reader = run(tmp_path, script)
    with reader:
        assert [row.path for row in reader.layers()] == ["keras/dense", "tf_keras/dense"]
        assert [(row.optimizer, row.last) for row in reader.attempts()] == [(0, 1), (1, 1)]
        assert reader.meta["probe_errors"] == []

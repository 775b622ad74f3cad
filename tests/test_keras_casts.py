"""Casts of Keras layers, against the Cast operations of a graph that nobody watched."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from keras_watched import compiled, keras, numpy, read, samples, tf, watched

from mpaudit.render.run_json import render as as_json
from mpaudit.render.run_text import render as as_text
from mpaudit.runtime.sampling import Sampling
from mpaudit.runtime.summary import summarise
from mpaudit.runtime.trace import Reader

BYTES = {"float16": 2, "float32": 4}
BATCH = 8


@pytest.fixture(autouse=True)
def mixed() -> Iterator[None]:
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


def network() -> Any:
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dense(5, activation="tanh", name="wide", dtype="float32")(x)
    x = keras.layers.Dense(5, name="half")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="out", dtype="float32")(x), name="net")


def in_graph(model: Any, batch: Any) -> Counter[tuple[str, str, int]]:
    """The casts between floating dtypes of a training call: source, target, bytes that they write."""
    function = tf.function(lambda x: model(x, training=True)).get_concrete_function(batch)
    graphs = [function.graph]
    found: Counter[tuple[str, str, int]] = Counter()
    for graph in graphs:
        for each in graph.get_operations():
            if each.type != "Cast" or not each.inputs[0].dtype.is_floating:
                continue
            source, result = each.inputs[0].dtype.name, each.outputs[0]
            written = math.prod(result.shape.as_list()) * BYTES[result.dtype.name]
            found[source, result.dtype.name, written] += 1
    return found


def train(model: Any, data: Any, mode: str) -> None:
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))

    def step(x: Any) -> None:
        with tf.GradientTape() as tape:
            loss = optimizer.scale_loss(tf.reduce_mean(model(x, training=True) ** 2))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    optimizer.build(model.trainable_variables)
    run = compiled(step, mode)
    for begin in range(0, len(data), BATCH):
        run(tf.constant(data[begin : begin + BATCH]))


def per_step(reader: Reader) -> Counter[tuple[str, str]]:
    steps = reader.meta["cast_steps"]
    total: Counter[tuple[str, str]] = Counter()
    for row in reader.casts():
        assert row.count % steps == 0
        total[row.source, row.target] += row.count // steps
    return total


@pytest.mark.parametrize("mode", ["eager", "function", pytest.param("xla", marks=pytest.mark.slow)])
def test_casts_are_those_of_the_graph(tmp_path: Path, mode: str) -> None:
    model, data = network(), samples(4 * BATCH, 6, 6, 3)
    expected = in_graph(model, tf.constant(data[:BATCH]))
    with watched(tmp_path):
        train(model, data, mode)
    reader = read(tmp_path)
    counts: Counter[tuple[str, str]] = Counter()
    for (source, target, _), number in expected.items():
        counts[source, target] += number
    assert per_step(reader) == counts
    written = sum(size * number for (*_, size), number in expected.items())
    assert sum(row.bytes for row in reader.casts()) == written * reader.meta["cast_steps"]


def test_fit_knows_how_large_a_batch_was(tmp_path: Path) -> None:
    model, data = network(), samples(4 * BATCH, 6, 6, 3)
    expected = in_graph(model, tf.constant(data[:BATCH]))
    model.compile("sgd", "mse")
    with watched(tmp_path):
        model.fit(data, numpy.zeros((len(data), 2)), batch_size=BATCH, verbose=0)
    reader = read(tmp_path)
    written = sum(size * number for (*_, size), number in expected.items())
    assert sum(row.bytes for row in reader.casts()) == written * reader.meta["cast_steps"]


def test_each_cast_is_told_of_the_layer_that_makes_it(tmp_path: Path) -> None:
    model, data = network(), samples(BATCH, 6, 6, 3)
    with watched(tmp_path):
        train(model, data, "function")
    report = summarise(read(tmp_path))
    layers = {each["path"]: each for each in json.loads(as_json(report))["layers"]}
    weights = {name: len(model.get_layer(name).weights) for name in ("conv", "half")}
    for name, count in weights.items():  # its input and what it reads of its variables
        assert layers[name]["casts_per_step"]["forward"] == 1 + count
        assert layers[name]["casts_per_step"]["of_parameters"] == count
    for name in ("wide", "out"):
        assert layers[name]["casts_per_step"]["forward"] == 1
        assert (
            layers[name]["casts_per_step"]["bytes"]
            == 4 * BATCH * model.get_layer(name).input.shape[1]
        )
        told = {"operation": "Dense", "why": "policy", "per_step": 1}
        assert layers[name]["float32_operations"] == [told]
    told = {"operation": "BatchNormalization", "why": "layer", "per_step": 1}
    assert layers["norm"]["float32_operations"] == [told]
    assert [each["policy"] for each in layers.values()].count("mixed_float16") == 4
    assert "the layer casts to it itself" in as_text(report)


class Around(keras.Model):  # type: ignore[misc]
    """Casts what it is given to float16, which the model within it casts back to its `Input`."""

    def __init__(self) -> None:
        super().__init__(name="around", dtype="mixed_float16")
        head = keras.layers.Dense(2, dtype="mixed_float16", name="head")
        layers = [keras.Input((4,)), head]
        self.inner = keras.Sequential(layers, name="inner")
        self.inner.dtype_policy = "mixed_float16"

    def call(self, inputs: Any) -> Any:
        return self.inner(inputs)


def test_what_a_model_casts_for_its_input_is_not_its_policys_doing(tmp_path: Path) -> None:
    with watched(tmp_path):
        model = Around()
        model.compile("sgd", "mse")
        model.fit(samples(4, 4), numpy.zeros((4, 2)), verbose=0)
    meta = read(tmp_path).meta
    inner = meta["float32_operations"]["inner"]
    assert inner == {"Sequential": {"layer": meta["cast_steps"]}}


def test_in_eager_mode_some_steps_are_counted(tmp_path: Path) -> None:
    model, data = network(), samples(BATCH, 6, 6, 3)
    with watched(tmp_path):
        train(model, numpy.concatenate([data] * 5), "eager")
    assert read(tmp_path).meta["cast_steps"] == 2


def test_without_mixed_precision_nothing_is_cast(tmp_path: Path) -> None:
    keras.config.set_dtype_policy("float32")
    model, data = network(), samples(BATCH, 6, 6, 3)
    with watched(tmp_path):
        train(model, data, "function")
        model.predict(data, verbose=0)
    reader = read(tmp_path)
    assert reader.casts() == []
    assert "cast_steps" not in reader.meta


def test_a_light_look_counts_none(tmp_path: Path) -> None:
    with watched(tmp_path, sampling=Sampling(light=True)):
        train(network(), samples(BATCH, 6, 6, 3), "function")
    assert read(tmp_path).casts() == []


def test_layers_of_a_policy_map_are_told_by_their_own_policy(tmp_path: Path) -> None:
    policies = keras.dtype_policies.DTypePolicyMap(default_policy="mixed_float16")
    policies["head"] = "float32"
    inputs = keras.Input((6,))
    x = keras.layers.Dense(5, name="body", dtype=policies)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head", dtype=policies)(x))
    with watched(tmp_path):
        train(model, samples(BATCH, 6), "function")
    reader = read(tmp_path)
    found = {path: each["policy"] for path, each in reader.meta["policies"].items()}
    assert (found["body"], found["head"]) == ("mixed_float16", "float32")
    casts = {(row.layer, row.what, row.source) for row in reader.casts()}
    assert ("head", "activation", "float16") in casts
    assert ("body", "parameter", "float32") in casts


def test_casts_of_keras_2_are_those_of_the_graph(tmp_path: Path) -> None:
    old = pytest.importorskip("tf_keras")
    old.mixed_precision.set_global_policy("mixed_float16")
    try:
        inputs = old.Input((6,))
        x = old.layers.Dense(5, activation="relu", name="body")(inputs)
        x = old.layers.LayerNormalization(name="norm")(x)
        model = old.Model(inputs, old.layers.Dense(2, name="head", dtype="float32")(x))
        data = tf.constant(samples(BATCH, 6))
        expected = in_graph(model, data)
        optimizer = old.mixed_precision.LossScaleOptimizer(old.optimizers.SGD(0.1))

        @tf.function
        def step(x: Any) -> None:
            with tf.GradientTape() as tape:
                loss = optimizer.get_scaled_loss(tf.reduce_mean(model(x, training=True) ** 2))
            variables = model.trainable_variables
            gradients = optimizer.get_unscaled_gradients(tape.gradient(loss, variables))
            optimizer.apply_gradients(zip(gradients, variables, strict=True))

        with watched(tmp_path):
            step(data)
    finally:
        old.mixed_precision.set_global_policy("float32")
    reader = read(tmp_path)
    counts: Counter[tuple[str, str]] = Counter()
    for (source, target, _), number in expected.items():
        counts[source, target] += number
    assert per_step(reader) == counts
    written = sum(size * number for (*_, size), number in expected.items())
    assert sum(row.bytes for row in reader.casts()) == written * reader.meta["cast_steps"]


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_what_takes_part_in_some_steps_is_told_per_step_of_those(tmp_path: Path, mode: str) -> None:
    """Two halves with an optimizer each, as in a GAN: what one casts is no half of a cast."""
    generator = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6, name="made")])
    critic = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, name="out")])
    optimizers = [keras.optimizers.SGD(0.01), keras.optimizers.SGD(0.01)]
    for model, optimizer in zip((generator, critic), optimizers, strict=True):
        optimizer.build(model.trainable_variables)

    def step(noise: Any) -> None:
        fakes = generator(noise)
        for model, optimizer in zip((critic, generator), reversed(optimizers), strict=True):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(critic(generator(noise) if model is generator else fakes))
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)

    with watched(tmp_path):
        run = tf.function(step) if mode == "function" else step
        for _ in range(3):
            run(tf.constant(samples(BATCH, 6)))
    reader = read(tmp_path)
    report = summarise(reader)
    layers = {each["path"]: each for each in json.loads(as_json(report))["layers"]}
    (made,) = [each for path, each in layers.items() if path.endswith("made")]
    (out,) = [each for path, each in layers.items() if path.endswith("out")]
    # the input and two variables of each, in the steps in which gradients are taken of what it computes
    assert made["casts_per_step"]["forward"] == out["casts_per_step"]["forward"] == 3
    assert reader.meta["cast_steps"] == 2
    assert reader.meta["cast_steps_of"] == {made["path"]: 1}

"""Layers that take ragged tensors, sparse ones, or whole numbers: what is reported of them, by NumPy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from keras_watched import attempts, compiled, numbers, octaves, read, samples, under, watched

numpy = pytest.importorskip("numpy")
tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

STEPS, RATE = 3, 0.5
LENGTHS = [2, 3, 4]
FLAT = samples(9, 2)
KEPT = samples(8, 6) * numpy.float32([1, 0, 0, 1, 0, 0])
WORDS = numpy.int64([[1, 2, 3], [3, 3, 9]])


class Means(keras.layers.Layer):
    """Takes a ragged tensor."""

    def call(self, inputs: Any) -> Any:
        return tf.reduce_mean(inputs, axis=1)


class Case:
    """A program: layers, what they are given, and what NumPy makes of the weights before a step.

    `by_hand` gives the outputs of layers by name, the gradients that come back to them, and the gradient
    of each weight. The loss is the mean of squares of what the last layer gives.
    """

    def __init__(
        self,
        layers: Callable[[], list[Any]],
        given: Callable[[], Any],
        by_hand: Callable[[list[Any]], tuple[dict[str, Any], dict[str, Any], list[Any]]],
    ) -> None:
        self.layers, self.given, self.by_hand = layers, given, by_hand


def built(layer: Any, width: int) -> Any:
    """The layer with its variables, for inputs of so many columns."""
    layer.build((None, width))
    return layer


def squares(outputs: Any) -> Any:
    """The gradient of their mean."""
    return 2 * outputs / outputs.size


def ragged(weights: list[Any]) -> Any:
    """No gradient comes back to the means: there is nothing to train before them."""
    kernel, bias = weights
    ends = numpy.cumsum(LENGTHS)
    means = numpy.stack([part.mean(axis=0) for part in numpy.split(FLAT, ends[:-1])])
    outputs = means @ kernel + bias
    back = squares(outputs)
    forward = {"means": means, "dense": outputs}
    return forward, {"dense": back}, [means.T @ back, back.sum(axis=0)]


def sparse(weights: list[Any]) -> Any:
    """The gradient of the kernel has the rows of the two columns that hold something."""
    kernel, bias = weights
    outputs = KEPT @ kernel + bias
    back = squares(outputs)
    held = KEPT.any(axis=0)
    return {"dense": outputs}, {"dense": back}, [(KEPT.T @ back)[held], back.sum(axis=0)]


def whole_numbers(weights: list[Any]) -> Any:
    """The gradient of the table has a row for each word that was looked up."""
    (table,) = weights
    outputs = table[WORDS]
    back = squares(outputs)
    flat = outputs.reshape(2, -1)
    forward = {"embedding": outputs, "flatten": flat}
    return forward, {"embedding": back, "flatten": back.reshape(2, -1)}, [back.reshape(-1, 4)]


CASES = {
    "ragged": Case(
        lambda: [Means(name="means"), built(keras.layers.Dense(3, name="dense"), 2)],
        lambda: tf.RaggedTensor.from_row_lengths(tf.constant(FLAT), LENGTHS),
        ragged,
    ),
    "sparse": Case(
        lambda: [built(keras.layers.Dense(3, name="dense"), 6)],
        lambda: tf.sparse.from_dense(KEPT),
        sparse,
    ),
    "whole numbers": Case(
        lambda: [
            built(keras.layers.Embedding(10, 4, name="embedding"), 3),
            keras.layers.Flatten(name="flatten"),
        ],
        lambda: tf.constant(WORDS),
        whole_numbers,
    ),
}


def trained(case: Case, mode: str) -> list[list[Any]]:
    """Trains; gives the weights before each step."""
    layers, given = case.layers(), case.given()
    optimizer, weights = keras.optimizers.SGD(RATE), []

    def variables() -> list[Any]:
        return [each for layer in layers for each in layer.trainable_variables]

    def called(inputs: Any) -> Any:
        for layer in layers:
            inputs = layer(inputs)
        return inputs

    def step(inputs: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(tf.cast(called(inputs), tf.float32)))
        optimizer.apply(tape.gradient(loss, variables()), variables())

    run = compiled(step, mode)
    for _ in range(STEPS):
        weights.append([each.numpy() for each in variables()])
        run(given)
    return weights


HALF = pytest.param("mixed_float16", 4e-3, marks=pytest.mark.slow)


@pytest.mark.parametrize("mode", ["eager", "function"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("policy", "near"), [("float32", 1e-5), HALF])
def test_numbers_are_those_of_the_same_arithmetic(
    tmp_path: Path, name: str, mode: str, policy: str, near: float
) -> None:
    case = CASES[name]
    with under(policy, seed=3), watched(tmp_path):
        weights = trained(case, mode)
    forward: dict[str, list[Any]] = {}
    backward: dict[str, list[Any]] = {}
    gradients: list[Any] = []
    for before in weights:
        outputs, back, of_weights = case.by_hand(before)
        gradients += of_weights
        for table, tensors in ((forward, outputs), (backward, back)):
            for layer, tensor in tensors.items():
                table.setdefault(layer, []).append(tensor)
    with read(tmp_path) as reader:
        found, steps, histograms = numbers(reader), attempts(reader), reader.histograms()
        layers = {each.path: (each.calls, each.calls_per_step) for each in reader.layers()}
    assert layers == dict.fromkeys(forward, (STEPS, 1))
    ways = {"forward": forward, "backward": backward}
    assert found.keys() == {(layer, way) for way, table in ways.items() for layer in table}
    for (layer, way), row in found.items():
        tensors = ways[way][layer]
        dtype = "float32" if policy == "float32" else "float16"
        assert (row.dtype, row.calls, row.inf, row.nan) == (dtype, STEPS, 0, 0)
        assert row.elements == sum(each.size for each in tensors)
        assert row.zeros == sum(numpy.count_nonzero(each == 0) for each in tensors)
        amax = max(float(numpy.abs(each).max()) for each in tensors)
        assert row.amax == pytest.approx(amax, rel=near)
    assert steps == dict.fromkeys(range(STEPS), (True, None))
    kept = [each for its in histograms.values() for each in its]
    for what, values in (
        ("weight", [each for before in weights for each in before]),
        ("weight_gradient", gradients),
    ):
        its = [each for each in kept if each.what == what]
        assert sum(each.elements for each in its) == sum(each.size for each in values)
        ours = sum((Counter(each.bins) for each in its), Counter())
        wanted = sum(map(octaves, values), Counter())
        apart = sum(((ours - wanted) + (wanted - ours)).values())
        exact = what == "weight" or policy == "float32"
        assert apart <= (0 if exact else 0.1 * sum(wanted.values()))

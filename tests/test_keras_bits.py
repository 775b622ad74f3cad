"""A network whose graph TensorFlow adds up otherwise where it is looked at trains to the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from keras_watched import numbers, read, samples, under, watched

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from mpaudit.runtime.keras.summand import added, summands  # noqa: E402
from mpaudit.runtime.sampling import Sampling  # noqa: E402


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    from tensorflow.python.framework import config

    config.enable_op_determinism()
    yield
    config.disable_op_determinism()


def weights(policy: str) -> list[bytes]:
    """Of a small residual network after some steps.

    To TensorFlow a batch normalisation, a residual addition and what follows are one sum, which is added
    in another order where somebody looks at what is in between.
    """
    layers = keras.layers

    def normal(x: Any) -> Any:
        return layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))

    with under(policy, seed=0):
        given = keras.Input((12, 12, 3))
        x = layers.Activation("relu")(normal(given))
        x = layers.Add(name="add")([normal(x), x])
        head = layers.Dense(5, dtype="float32", name="head")(layers.GlobalAveragePooling2D()(x))
        model = keras.Model(given, head)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05), loss)
        images, labels = samples(32, 12, 12, 3), tf.range(32) % 5
        model.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
        return [each.tobytes() for each in model.get_weights()]


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_residual_network_trains_to_the_same_bits(tmp_path: Path, policy: str) -> None:
    plain = weights(policy)
    for name, sampling in (("all", Sampling()), ("light", Sampling(light=True))):
        (tmp_path / name).mkdir()
        with watched(tmp_path / name, sampling=sampling):
            assert weights(policy) == plain
    with read(tmp_path / "all") as reader:
        looked = numbers(reader).keys()
    for layer in ("add", "head"):
        assert {(layer, "forward"), (layer, "backward")} <= looked


def test_a_sum_is_taken_apart_down_to_what_is_used_more_than_once() -> None:
    seen = {}

    @tf.function
    def compute(a: tf.Tensor, b: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        once = tf.identity(a + b)
        twice = tf.add_n([b, b, b])
        total = (once + c) + (twice + a)
        product = total * twice
        for name, value in {"total": total, "product": product, "twice": twice}.items():
            terms, plan = summands(value)
            seen[name] = [each.op.type for each in terms]
            seen[f"{name} again"] = added(plan, terms)
        return total, seen["total again"]

    one, other = compute(tf.constant(1.0), tf.constant([2.0, 3.0]), tf.constant([4.0]))
    assert one.numpy().tolist() == other.numpy().tolist()
    assert seen["total"] == ["Placeholder", "Placeholder", "Placeholder", "AddN", "Placeholder"]
    assert seen["product"] == ["Mul"]
    assert seen["twice"] == ["Placeholder"] * 3

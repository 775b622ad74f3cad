"""The ways to train with `fit`: numbers of layers are those of the same arithmetic by hand, each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from keras_watched import attempts, numbers, read, samples, under, watched

numpy = pytest.importorskip("numpy")
tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

BATCH, STEPS, SCALE = 8, 3, 2.0**10
X, Y = samples(BATCH * STEPS, 6), samples(BATCH * STEPS, 3)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    with under("mixed_float16", seed=4):  # with deterministic operations Keras would refuse XLA
        yield


class OwnStep(keras.Sequential):  # type: ignore[misc]
    """Its `train_step` is its own."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


class OwnLoss(keras.Sequential):  # type: ignore[misc]
    """Its `compute_loss` is its own."""

    def compute_loss(self, x=None, y=None, y_pred=None, *_: Any, **__: Any) -> Any:  # type: ignore[no-untyped-def]
        return keras.ops.mean(keras.ops.square(y_pred - y))


def fit(kind: Any = keras.Sequential, gathers: int | None = None, **options: Any) -> Any:
    """Trains for STEPS batches; gives of each the weights before it."""
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3, dtype="float32")]
    model = kind([keras.Input((6,)), *layers])
    inner = keras.optimizers.SGD(0.01, gradient_accumulation_steps=gathers)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=SCALE)
    model.compile(optimizer, "mse", **options)
    weights = []

    class Before(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_begin(self, *_: Any, **__: Any) -> None:
            weights.append(model.get_weights())

    model.fit(X, Y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[Before()])
    return [*weights, model.get_weights()]


WAYS: dict[str, Callable[[], Any]] = {
    "graph": fit,
    "auto": lambda: fit(jit_compile="auto"),
    "XLA": lambda: fit(jit_compile=True),
    "eager": lambda: fit(run_eagerly=True),
    "train_step": lambda: fit(OwnStep),
    "train_step in XLA": lambda: fit(OwnStep, jit_compile=True),
    "compute_loss": lambda: fit(OwnLoss),
    "accumulation": lambda: fit(gathers=2),
}


@pytest.mark.parametrize("way", WAYS)
def test_numbers_of_a_fit_are_those_of_the_same_arithmetic_by_hand(
    tmp_path: Path, way: str
) -> None:
    with watched(tmp_path):
        weights = WAYS[way]()
    found: dict[tuple[str, str], list[Any]] = {}
    for step, (first, bias, second, offset) in enumerate(weights[:-1]):
        part = slice(step * BATCH, (step + 1) * BATCH)
        half = [tf.cast(each, tf.float16) for each in (X[part], first, bias)]
        hidden = tf.nn.relu(half[0] @ half[1] + half[2])
        outer = tf.cast(hidden, tf.float32) @ second + offset
        back = SCALE * 2 * (outer - Y[part]) / (BATCH * 3)
        held = {
            ("dense", "forward"): hidden,
            ("dense", "backward"): tf.cast(back @ tf.transpose(second), tf.float16),
            ("dense_1", "forward"): outer,
            ("dense_1", "backward"): back,
        }
        for place, value in held.items():
            found.setdefault(place, []).append(value.numpy())
    with read(tmp_path) as reader:
        rows = {(path.split("/")[-1], phase): row for (path, phase), row in numbers(reader).items()}
        steps, dtypes = attempts(reader), reader.dtypes()
    assert rows.keys() == found.keys()
    for place, tensors in found.items():
        row = rows[place]
        assert (row.calls, row.elements) == (STEPS, sum(each.size for each in tensors))
        assert (row.inf, row.nan) == (0, 0)
        assert row.zeros == sum(numpy.count_nonzero(each == 0) for each in tensors)
        assert row.amax == pytest.approx(max(numpy.abs(each).max() for each in tensors), rel=2e-3)
    assert steps == dict.fromkeys(range(STEPS), (True, SCALE))
    kinds = {path.split("/")[-1]: flows["output"] for path, flows in dtypes.items()}
    assert kinds == {"dense": ["float16"], "dense_1": ["float32"]}


def test_what_only_gathers_gradients_is_no_skipped_step(tmp_path: Path) -> None:
    with watched(tmp_path):
        weights = fit(gathers=2)
    changed = [
        any((one != other).any() for one, other in zip(before, after, strict=True))
        for before, after in pairwise(weights)
    ]
    assert changed == [False, True, False]
    with read(tmp_path) as reader:
        assert all(applied for applied, _ in attempts(reader).values())
        assert reader.incidents() == []


@pytest.mark.parametrize("way", ["graph", "XLA", "eager", "train_step"])
def test_the_origin_of_an_overflow_in_a_fit(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sample of the third batch is beyond float16 behind the first layer."""
    large = X.copy()
    large[2 * BATCH] = 6e4
    monkeypatch.setitem(globals(), "X", large)
    with watched(tmp_path):
        weights = WAYS[way]()
    with numpy.errstate(over="ignore"):
        hidden = large[2 * BATCH].astype("float16") @ weights[2][0].astype("float16")
    assert not numpy.isfinite(hidden).all()
    with read(tmp_path) as reader:
        incidents, steps, skips = reader.incidents(), attempts(reader), reader.meta["skips"]
    made = [each for each in incidents if each.kind.startswith("activation")]
    assert [(each.layer.split("/")[-1], each.first_step, each.last_step) for each in made] == [
        ("dense", 2, 2)
    ]
    assert [applied for applied, _ in steps.values()] == [True, True, False]
    assert [(first, last, len(layers)) for _, first, last, layers in skips] == [(2, 2, 1)]


@pytest.mark.parametrize("way", ["graph", "train_step", "accumulation"])
def test_nothing_leaves_the_graph_while_it_runs(tmp_path: Path, way: str) -> None:
    """No operation calls Python, prints, or waits for the host."""
    from tensorflow.python.eager.context import context

    before = set(context().list_function_names())
    with watched(tmp_path):
        WAYS[way]()
        names = set(context().list_function_names()) - before
        nodes = [node for name in names for node in context().get_function_def(name).node_def]
    kinds = {node.op for node in nodes}
    assert {"MatMul", "If"} & kinds
    assert not [each for each in kinds if "PyFunc" in each or "Print" in each or each in HOST]


HOST = {"OutfeedEnqueue", "OutfeedEnqueueTuple", "_Send", "_HostSend", "Save", "WriteSummary"}

"""Models whose last layer does not make what leaves them: a function in `call` does, of its output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from keras_watched import Heard, compiled, keras, numbers, read, samples, tf, under, watched

from mpaudit.event import LossComputed
from mpaudit.protocols import machines

KINDS = 3
Y = tf.one_hot([0, 1, 2, 0, 1, 2, 0, 1], KINDS)
X = samples(8, 4)
HEAD = ["output-not-float32 head"]
MODES = ["eager", "function"]
ENDS: dict[str, tuple[Callable[[Any], Any], str | None]] = {
    "tf.nn.softmax": (tf.nn.softmax, "softmax"),
    "tf.nn.sigmoid": (tf.nn.sigmoid, "sigmoid"),
    "keras.ops.softmax": (keras.ops.softmax, "softmax"),
    "keras.ops.sigmoid": (keras.ops.sigmoid, "sigmoid"),
    "keras.activations": (keras.activations.softmax, "softmax"),
    "of another axis": (
        lambda x: tf.squeeze(tf.nn.softmax(tf.expand_dims(x, -1), axis=1), -1),
        "softmax",
    ),
    "reshaped before": (lambda x: tf.nn.softmax(tf.reshape(x, [-1, KINDS])), "softmax"),
    "squeezed": (lambda x: tf.squeeze(tf.expand_dims(x, 1), 1), "logits"),
    "log_softmax": (tf.nn.log_softmax, "log_softmax"),
}
WIDE: dict[str, Callable[[Any], Any]] = {
    "cast before": lambda x: tf.nn.softmax(tf.cast(x, tf.float32)),
    "cast by Keras": lambda x: keras.ops.softmax(keras.ops.cast(x, "float32")),
    "cast after": lambda x: tf.cast(tf.nn.softmax(x), tf.float32),
}


class Net(keras.Model):  # type: ignore[misc]
    """Ends in a function."""

    def __init__(self, end: Callable[[Any], Any], dtype: str | None = None) -> None:
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="relu")
        self.head = keras.layers.Dense(KINDS, dtype=dtype)  # the head
        self.end = end

    def call(self, x: Any) -> Any:
        return self.end(self.head(self.hidden(x)))


class Gate(keras.layers.Layer):  # type: ignore[misc]
    """In the middle of a model, a sigmoid of a layer's output is as it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = keras.layers.Dense(4)

    def call(self, x: Any) -> Any:
        return x * tf.nn.sigmoid(self.inner(x))


def fitted(model: Any, loss: Any, mode: str = "function") -> None:
    model.compile(keras.optimizers.SGD(0.01), loss, run_eagerly=mode == "eager")
    model.fit(X, Y.numpy(), batch_size=4, epochs=1, verbose=0)


def looped(model: Any, loss: Callable[[Any, Any], Any], mode: str) -> None:
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))

    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            value = tf.cast(tf.reduce_mean(loss(y, model(x, training=True))), tf.float32)
            value = optimizer.scale_loss(value)
        optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)

    run = compiled(step, mode)
    for _ in range(2):
        run(tf.constant(X), Y)


def problems(folder: Path, run: Callable[[], None], policy: str = "mixed_float16") -> list[Any]:
    with watched(folder, *machines()), under(policy, seed=0):
        run()
    with read(folder) as reader:
        return list(reader.problems())


def found(folder: Path, run: Callable[[], None], policy: str = "mixed_float16") -> list[str]:
    """The rules that are broken, each with the last word of its line."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    told = problems(folder, run, policy)
    return [f"{each.rule} {lines[each.span.start.row - 1].split()[-1]}" for each in told]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ENDS)
def test_the_head_is_told_where_a_function_of_its_output_leaves_the_model(
    tmp_path: Path, name: str, mode: str
) -> None:
    end, got = ENDS[name]
    heard = Heard()
    with watched(tmp_path, heard, *machines()), under("mixed_float16", seed=0):
        fitted(Net(end), "mse", mode)
    with read(tmp_path) as reader:
        (problem,) = reader.problems()
        assert ("net", "forward") in numbers(reader)  # as before
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert problem.rule == "output-not-float32"
    assert lines[problem.span.start.row - 1].endswith("# the head")
    assert {each.got for each in heard.of(LossComputed)} == {got}
    assert got not in ("softmax", "sigmoid") or f"its {got} output" in problem.message


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["tf.nn.softmax", "keras.ops.softmax", "squeezed"])
def test_so_it_is_where_the_loss_is_computed_by_hand(tmp_path: Path, name: str, mode: str) -> None:
    def run() -> None:
        looped(Net(ENDS[name][0]), lambda y, p: (tf.cast(y, p.dtype) - p) ** 2, mode)

    assert found(tmp_path, run) == HEAD


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WIDE)
def test_what_the_model_makes_float32_is_left_alone(tmp_path: Path, name: str, mode: str) -> None:
    assert found(tmp_path, lambda: fitted(Net(WIDE[name]), "mse", mode)) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("policy", "dtype"), [("mixed_float16", "float32"), ("mixed_bfloat16", None)]
)
def test_heads_that_compute_in_another_dtype_are_left_alone(
    tmp_path: Path, policy: str, dtype: str | None, mode: str
) -> None:
    def run() -> None:
        fitted(Net(tf.nn.softmax, dtype), "categorical_crossentropy", mode)

    assert found(tmp_path, run, policy) == []


@pytest.mark.parametrize("mode", MODES)
def test_a_gate_within_a_model_is_left_alone(tmp_path: Path, mode: str) -> None:
    def run() -> None:
        head = keras.layers.Dense(KINDS, dtype="float32")
        fitted(keras.Sequential([keras.Input((4,)), Gate(), head]), "mse", mode)

    assert found(tmp_path, run) == []


def test_models_within_models_and_functional_ones_are_told_alike(tmp_path: Path) -> None:
    def run() -> None:
        given = keras.Input((4,))
        head = keras.layers.Dense(KINDS)  # the head
        fitted(keras.Model(given, keras.ops.softmax(head(given))), "categorical_crossentropy")

    class Outer(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = Net(lambda x: x)

        def call(self, x: Any) -> Any:
            return tf.nn.softmax(self.inner(x))

    assert found(tmp_path, run) == HEAD
    again = tmp_path / "again"
    again.mkdir()
    assert found(again, lambda: fitted(Outer(), "categorical_crossentropy")) == HEAD


def test_a_softmax_by_a_function_is_none_for_a_loss_of_logits(tmp_path: Path) -> None:
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    told = problems(tmp_path, lambda: fitted(Net(tf.nn.softmax, "float32"), loss))
    assert [each.rule for each in told] == ["softmax-with-from-logits"]


def test_keras_2_is_watched_alike(tmp_path: Path) -> None:
    old = pytest.importorskip("tf_keras")

    class Old(old.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.head = old.layers.Dense(KINDS)  # the head

        def call(self, x: Any) -> Any:
            return tf.nn.softmax(self.head(x))

    try:
        with watched(tmp_path, *machines()):
            old.mixed_precision.set_global_policy("mixed_float16")
            model = Old()
            model.compile(old.optimizers.SGD(0.01), "categorical_crossentropy")
            model.fit(X, Y.numpy(), batch_size=4, epochs=1, verbose=0)
    finally:
        old.mixed_precision.set_global_policy("float32")
    with read(tmp_path) as reader:
        assert [each.rule for each in reader.problems()] == ["output-not-float32"]

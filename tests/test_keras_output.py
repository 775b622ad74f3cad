"""Losses computed by hand, in loops of one's own: an output in float16 is seen whatever takes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from keras_watched import Heard, compiled, read, samples, under, watched

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from mpaudit.event import LossComputed  # noqa: E402
from mpaudit.protocols import machines  # noqa: E402

KINDS = 3
Y = tf.one_hot([0, 1, 2, 0, 1, 2, 0, 1], KINDS)
BY_HAND: dict[str, Callable[[Any, Any], Any]] = {
    "keras.losses": keras.losses.mean_squared_error,
    "keras.losses of a class": keras.losses.categorical_crossentropy,
    "keras.ops": lambda y, p: keras.ops.mean(keras.ops.square(keras.ops.cast(y, "float16") - p)),
    "tf.nn": lambda y, p: tf.nn.softmax_cross_entropy_with_logits(y, p),
    "sparse": lambda y, p: tf.nn.sparse_softmax_cross_entropy_with_logits(tf.argmax(y, -1), p),
    "arithmetic": lambda y, p: tf.reduce_mean((p - tf.cast(y, p.dtype)) ** 2),
    "behind an operation": lambda y, p: tf.reduce_mean(tf.abs(p[:, :1] * 2)),
}
TAKEN: dict[str, Callable[[Any, Any], Any]] = {
    "cast": lambda y, p: keras.losses.mean_squared_error(y, tf.cast(p, tf.float32)),
    "cast by Keras": lambda y, p: tf.reduce_mean((keras.ops.cast(p, "float32") - y) ** 2),
    "saturated": lambda y, p: tf.reduce_mean((tf.saturate_cast(p, tf.float32) - y) ** 2),
    "sliced, then cast": lambda y, p: tf.reduce_mean(
        (tf.cast(p[:, :2], tf.float32) - y[:, :2]) ** 2
    ),
    "promoted": lambda y, p: keras.ops.mean(keras.ops.square(keras.ops.subtract(y, p))),
    "another layer": lambda _, p: tf.reduce_mean(keras.layers.Identity(dtype="float32")(p)),
}
MODES = ["eager", "function"]


def model(head: str | None = None, activation: str | None = None) -> Any:
    hidden = keras.layers.Dense(8, activation="relu")
    last = keras.layers.Dense(KINDS, activation=activation, dtype=head)  # the head
    return keras.Sequential([keras.Input((4,)), hidden, last])


def loop(trained: Any, loss: Callable[[Any, Any], Any], mode: str = "function") -> None:
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))

    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(y, trained(x, training=True)))
            value = optimizer.scale_loss(tf.cast(value, tf.float32))
        gradients = tape.gradient(value, trained.trainable_variables)
        pairs = zip(gradients, trained.trainable_variables, strict=True)
        optimizer.apply_gradients([(g, v) for g, v in pairs if g is not None])

    run = compiled(step, mode)
    for _ in range(2):
        run(tf.constant(samples(8, 4)), Y)


def found(folder: Path, run: Callable[[], None], policy: str = "mixed_float16") -> list[str]:
    """The rules that are broken, each with the last word of its line."""
    with watched(folder, *machines()), under(policy, seed=0):
        run()
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    with read(folder) as reader:
        problems = reader.problems()
    return [f"{each.rule} {lines[each.span.start.row - 1].split()[-1]}" for each in problems]


HEAD = ["output-not-float32 head"]


@pytest.mark.parametrize(
    ("name", "mode"), [*((name, mode) for name in BY_HAND for mode in MODES), ("arithmetic", "xla")]
)
def test_an_output_in_half_is_seen_whatever_is_computed_of_it(
    tmp_path: Path, name: str, mode: str
) -> None:
    assert found(tmp_path, lambda: loop(model(), BY_HAND[name], mode)) == HEAD


@pytest.mark.parametrize("mode", MODES)
def test_what_a_softmax_in_half_costs_is_said_of_a_function_as_of_a_loss(
    tmp_path: Path, mode: str
) -> None:
    heard = Heard()
    with watched(tmp_path, heard, *machines()), under("mixed_float16", seed=0):
        loop(model(activation="softmax"), keras.losses.categorical_crossentropy, mode)
    with read(tmp_path) as reader:
        (problem,) = reader.problems()
    assert "a probability below 6e-8 becomes zero" in (problem.consequence or "")
    assert problem.related[-1].message == "the loss is differentiated here"
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert "tape.gradient(value" in lines[problem.related[-1].span.start.row - 1]
    assert {(each.by_hand, each.got) for each in heard.of(LossComputed)} == {(True, "softmax")}


@pytest.mark.parametrize(
    ("policy", "head"),
    [("mixed_float16", "float32"), ("mixed_bfloat16", None), ("float32", None)],
)
def test_other_outputs_are_as_they_should_be(tmp_path: Path, policy: str, head: str | None) -> None:
    def run() -> None:
        loop(model(head), lambda y, p: keras.losses.mean_squared_error(y, p))

    assert [each for each in found(tmp_path, run, policy) if "output" in each] == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TAKEN)
def test_what_is_made_float32_by_hand_is_left_alone(tmp_path: Path, name: str, mode: str) -> None:
    assert found(tmp_path, lambda: loop(model(), TAKEN[name], mode)) == []


@pytest.mark.parametrize("mode", MODES)
def test_an_output_that_no_loss_is_computed_from_is_left_alone(tmp_path: Path, mode: str) -> None:
    def run() -> None:
        given = keras.Input((4,))
        hidden = keras.layers.Dense(8, activation="relu")(given)
        heads = [keras.layers.Dense(KINDS, dtype="float32")(hidden), hidden]
        heads += [keras.layers.Dense(KINDS)(hidden)]
        loop(keras.Model(given, heads), lambda y, p: (p[0] - y) ** 2, mode)

    assert found(tmp_path, run) == []


def test_a_loss_of_keras_is_told_once(tmp_path: Path) -> None:
    heard, loss = Heard(), keras.losses.CategoricalCrossentropy(from_logits=True)
    with watched(tmp_path, heard, *machines()), under("mixed_float16", seed=0):
        loop(model(), loss)
    assert {each.by_hand for each in heard.of(LossComputed)} == {False}


def test_a_metric_takes_nothing(tmp_path: Path) -> None:
    def loss(y: Any, p: Any) -> Any:
        metric.update_state(y, p)
        return keras.losses.mean_squared_error(y, p)

    with under("mixed_float16", seed=0):
        metric = keras.metrics.MeanSquaredError()
    assert found(tmp_path, lambda: loop(model(), loss)) == HEAD


class Outer(keras.Model):  # type: ignore[misc, name-defined]
    """What is inside of it leaves in float16, and itself in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = keras.layers.Dense(KINDS)

    def call(self, x: Any) -> Any:
        return tf.nn.softmax(tf.identity(self.inner(x)) / tf.cast(4.0, tf.float16))


class Wide(Outer):
    def call(self, x: Any) -> Any:
        return tf.nn.softmax(tf.cast(self.inner(x), tf.float32))


@pytest.mark.parametrize("mode", MODES)
def test_layers_inside_of_another_give_nothing_out(tmp_path: Path, mode: str) -> None:
    heard = Heard()
    with watched(tmp_path, heard), under("mixed_float16", seed=0):
        loop(Outer(), keras.losses.mean_squared_error, mode)
        loop(Wide(), keras.losses.mean_squared_error, mode)
    outputs = {str(each.output) for each in heard.of(LossComputed)}
    assert len(outputs) <= 1
    assert not any("inner" in each for each in outputs)


@pytest.mark.parametrize("mode", MODES)
def test_a_penalty_on_the_gradient_of_an_input_is_no_loss(tmp_path: Path, mode: str) -> None:
    """What a generator gives out is taken by the critic; the critic's own output is what is told."""

    def run() -> None:
        generator, critic = (
            model(),
            keras.Sequential([keras.Input((KINDS,)), keras.layers.Dense(1)]),
        )
        optimizer = keras.optimizers.SGD(0.01)

        def step(x: Any) -> None:
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = tf.reduce_sum(generator(x))
            inner.gradient(value, x)
            with tf.GradientTape() as tape:
                loss = tf.cast(tf.reduce_mean(critic(generator(x))), tf.float32)
            gradients = tape.gradient(loss, generator.trainable_variables)
            optimizer.apply(gradients, generator.trainable_variables)

        compiled(step, mode)(tf.constant(samples(8, 4)))

    assert [each for each in found(tmp_path, run) if "output" in each] == []


def test_keras_2_is_watched_alike(tmp_path: Path) -> None:
    old = pytest.importorskip("tf_keras")
    try:
        with watched(tmp_path, *machines()):
            old.mixed_precision.set_global_policy("mixed_float16")
            trained = old.Sequential([old.layers.Dense(KINDS, input_shape=(4,))])  # the head
            optimizer = old.mixed_precision.LossScaleOptimizer(old.optimizers.SGD(0.01))

            @tf.function  # type: ignore[untyped-decorator]
            def step(x: Any, y: Any) -> None:
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(old.losses.mean_squared_error(y, trained(x)))
                    scaled = optimizer.get_scaled_loss(loss)
                gradients = tape.gradient(scaled, trained.trainable_variables)
                gradients = optimizer.get_unscaled_gradients(gradients)
                optimizer.apply_gradients(zip(gradients, trained.trainable_variables, strict=True))

            step(tf.constant(samples(8, 4)), Y)
    finally:
        old.mixed_precision.set_global_policy("float32")
    with read(tmp_path) as reader:
        assert [each.rule for each in reader.problems()] == ["output-not-float32"]

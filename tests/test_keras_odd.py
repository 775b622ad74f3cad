"""Odd Keras programs: each trains as without the probe, whose faults are none."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from keras_watched import read, samples, under, watched

numpy = pytest.importorskip("numpy")
tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")


@pytest.fixture(autouse=True)
def fresh_keras() -> Iterator[None]:
    from tensorflow.python.framework import config

    config.enable_op_determinism()
    yield
    config.disable_op_determinism()


class Twice(keras.layers.Dense):
    """A layer whose `__call__` does more than Keras'."""

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return 2.0 * super().__call__(inputs, *args, **kwargs)


class Own(keras.layers.Layer):
    """A layer whose `__call__` is none of Keras'."""

    def __call__(self, inputs: Any, *_: Any, **__: Any) -> Any:
        return tf.tanh(inputs)


class Means(keras.layers.Layer):
    """Takes a ragged tensor."""

    def call(self, inputs: Any) -> Any:
        return tf.reduce_mean(inputs, axis=1)


class Failing(keras.layers.Dense):
    """Raises in its third call."""

    calls = 0

    def call(self, inputs: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == 3:
            raise ValueError("the third call")
        return super().call(inputs, **kwargs)


def trained(
    model: Callable[..., Any], batches: Any, variables: Callable[[], Any], *, graph: bool = True
) -> list[Any]:
    """The losses of a loop with a tape, and the weights at its end."""
    optimizer = keras.optimizers.SGD(0.1)

    def step(inputs: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(tf.cast(model(inputs), tf.float32)))
        found = variables()
        optimizer.apply(tape.gradient(loss, found), found)
        return loss

    run = tf.function(step) if graph else step
    losses = [run(batch).numpy() for batch in batches]
    return [*losses, *(each.numpy() for each in variables())]


def dense(*layers: Any) -> Any:
    model = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(3)])
    model.build((None, 6))
    return model


def called_otherwise() -> list[Any]:
    layers = [Twice(5), Own(), keras.layers.Lambda(lambda x: x * 3.0), keras.layers.Dense(3)]

    def model(inputs: Any) -> Any:
        for layer in layers:
            inputs = layer(inputs)
        return inputs

    batch = tf.constant(samples(8, 6))
    model(batch)
    made = [layers[0], layers[-1]]
    return trained(model, [batch] * 3, lambda: [v for m in made for v in m.trainable_variables])


def ragged() -> list[Any]:
    means, last = Means(), keras.layers.Dense(3)
    last.build((None, 2))
    rows = tf.RaggedTensor.from_row_lengths(tf.constant(samples(9, 2)), [2, 3, 4])
    return trained(lambda x: last(means(x)), [rows] * 3, lambda: last.trainable_variables)


def sparse() -> list[Any]:
    model = keras.layers.Dense(3)
    model.build((None, 6))
    rows = tf.sparse.from_dense(tf.constant(samples(8, 6)) * tf.constant([1.0, 0, 0, 1, 0, 0]))
    return trained(model, [rows] * 3, lambda: model.trainable_variables)


def whole_numbers() -> list[Any]:
    model = keras.Sequential([keras.layers.Embedding(10, 4), keras.layers.Flatten()])
    model.build((None, 3))
    words = tf.constant([[1, 2, 3], [3, 3, 9]], tf.int64)
    return trained(model, [words] * 3, lambda: model.trainable_variables)


def nested() -> list[Any]:
    class Named(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="odd-name.1")
            self.parts = {"one": keras.layers.Dense(3), "two": [keras.layers.Dense(3)]}

        def call(self, inputs: Any) -> dict[str, Any]:
            one, (two,) = self.parts["one"], self.parts["two"]
            return {"both": tf.concat([one(inputs["x"]), two(inputs["x"])], axis=-1)}

    model = Named()
    model({"x": tf.constant(samples(8, 6))})
    batches = [{"x": tf.constant(samples(8, 6))}] * 3
    return trained(lambda x: model(x)["both"], batches, lambda: model.trainable_variables)


def built_anew() -> list[Any]:
    found = []
    for _ in range(4):
        model = dense(keras.layers.Dense(5, activation="relu"))
        model.compile(keras.optimizers.SGD(0.1), "mse")
        history = model.fit(samples(8, 6), samples(8, 3), batch_size=4, verbose=0, shuffle=False)
        found += [*history.history["loss"], *model.get_weights()]
    return found


def traced_again_and_again() -> list[Any]:
    model = dense(keras.layers.Dense(5, activation="relu"))
    batches = [tf.constant(samples(size, 6)) for size in range(1, 11)]
    return trained(model, batches, lambda: model.trainable_variables)


def several_models() -> list[Any]:
    first, second = dense(keras.layers.Dense(5)), dense(keras.layers.Dense(4))
    second.set_weights([each * 0.5 for each in second.get_weights()])
    pairs = [tf.constant(samples(8, 6))] * 3

    def both() -> list[Any]:
        return [*first.trainable_variables, *second.trainable_variables]

    return trained(lambda x: first(x) - second(x), pairs, both)


def stopped_by_a_layer() -> list[Any]:
    model = dense(Failing(5))
    found: list[Any] = []
    with pytest.raises(ValueError, match="the third call"):
        found += trained(
            model,
            [tf.constant(samples(8, 6))] * 4,
            lambda: model.trainable_variables,
            graph=False,
        )
    return [*found, *model.get_weights()]


PROGRAMS = [
    called_otherwise,
    ragged,
    sparse,
    whole_numbers,
    nested,
    built_anew,
    traced_again_and_again,
    several_models,
    stopped_by_a_layer,
]


@pytest.mark.parametrize(
    "policy", [pytest.param("float32", marks=pytest.mark.slow), "mixed_float16"]
)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda each: each.__name__)
def test_an_odd_program_trains_to_the_same_bits(
    tmp_path: Path, program: Callable[[], list[Any]], policy: str
) -> None:
    with under(policy, seed=3):
        plain = program()
    with under(policy, seed=3), watched(tmp_path):
        ours = program()
    assert plain
    assert len(ours) == len(plain)
    for one, other in zip(plain, ours, strict=True):
        assert numpy.array_equal(one, other)
    with read(tmp_path) as run:
        layers = {row.path for row in run.layers()}
        assert layers
        outputs = [each for each in run.statistics() if each.phase == "forward"]
        assert all(each.inf == each.nan == 0 and each.amax is not None for each in outputs)
        assert any(each.calls for each in outputs)

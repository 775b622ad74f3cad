"""Tensors of two dtypes that TensorFlow refuses to mix: which they are, and what made the one in 16 bits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from keras_watched import keras, tf, under, watched

from mpaudit.explain import look_up
from mpaudit.runtime.failure import cause_of
from mpaudit.runtime.keras.refused import Refusal, refusal

HERE = Path(__file__).name


@pytest.fixture
def model(tmp_path: Path) -> Any:
    with under("mixed_float16", seed=0), watched(tmp_path):
        yield keras.Sequential([keras.layers.Dense(4, name="last")], name="model")


def refused(run: Callable[[], object]) -> Refusal:
    with pytest.raises((TypeError, ValueError, tf.errors.OpError)) as found:
        run()
    known = refusal(found.value)
    assert known is not None
    return known


def data() -> Any:
    return tf.ones([2, 4])


def row(text: str) -> str:
    """The place of a line of this file, that is the first to hold `text`."""
    lines = Path(__file__).read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if text in line)
    path = Path(__file__)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{number}"


class Gan(keras.Model):  # type: ignore[misc]
    def __init__(self, generator: Any, penalised: bool) -> None:
        super().__init__()
        self.generator, self.penalised = generator, penalised

    def train_step(self, real: Any) -> Any:
        fake = self.generator(real)  # made
        return {"loss": self.penalty(real, fake) if self.penalised else self.both(real, fake)}

    def penalty(self, real: Any, fake: Any) -> Any:
        return tf.reduce_mean(fake - real)  # taken from the other

    def both(self, real: Any, fake: Any) -> Any:
        return tf.reduce_mean(tf.concat([fake, real], axis=0))  # put together


@pytest.mark.parametrize(
    ("penalised", "operation", "line"),
    [(True, "Sub", "# taken from the other"), (False, "ConcatV2", "# put together")],
)
def test_a_training_step_of_a_gan(model: Any, penalised: bool, operation: str, line: str) -> None:
    gan = Gan(model, penalised)
    gan.compile()
    found = refused(lambda: gan.fit(data(), batch_size=2, verbose=0))
    assert (found.operation, found.at, found.in_layer) == (operation, row(line), False)
    half, other = found.half, found.other
    assert (half.name, half.dtype, half.layer, half.direct) == (
        "fake",
        "float16",
        "model/last",
        True,
    )
    assert half.made == row("# made")
    assert (other.name, other.dtype, other.layer) == ("real", "float32", None)
    assert found.rule == "raw-loss-on-half-output"
    assert list(found.lines()) == [
        f"{operation} got `fake` in float16 and `real` in float32 at {row(line)}: "
        "TensorFlow does not convert one to the dtype of the other",
        f"  `fake` is what layer 'model/last' gives, in float16 by its policy, at {row('# made')}",
        '  to mend it: tf.cast `fake` to float32 there, or make that layer with dtype="float32"',
    ]


def test_a_function_that_autograph_has_rewritten(model: Any) -> None:
    @tf.function  # type: ignore[untyped-decorator]
    def step(real: Any) -> Any:
        fake = 2 * model(real)  # rewritten
        if tf.reduce_sum(real) > 0:
            real = real - fake  # in a branch
        return real

    found = refused(lambda: step(data()))
    assert (found.operation, found.at) == ("Sub", row("# in a branch"))
    half = found.half
    assert (half.name, half.layer, half.direct) == ("fake", "model/last", False)
    assert half.made == row("# rewritten")


def test_in_eager_mode_the_line_is_that_of_the_only_assignment(model: Any) -> None:
    def step(real: Any) -> Any:
        fake = model(real)  # by hand
        return tf.stack([real, fake])

    found = refused(lambda: step(data()))
    assert (found.operation, found.half.name, found.half.made) == ("Pack", "fake", row("# by hand"))


def test_what_has_no_name_is_called_by_its_layer(model: Any) -> None:
    found = refused(lambda: tf.stack([data(), model(data())]))
    assert found.half.told == "the output of layer 'model/last' in float16"
    told = list(found.lines())
    assert told[-1].endswith(
        'tf.cast the one in float16 to float32 first, or make that layer with dtype="float32"'
    )


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no columns of instructions")
@pytest.mark.parametrize("turned", [True, False])
def test_the_sides_of_an_operator_are_told_as_they_are_written(model: Any, turned: bool) -> None:
    losses = [tf.reduce_sum(model(data())), tf.reduce_sum(model(data()))]
    others = [tf.reduce_sum(data())]
    if turned:
        found = refused(lambda: sum(others) + sum(losses))
    else:
        found = refused(lambda: 2 * (sum(losses) + sum(others)))
    assert (found.half.name, found.other.name) == ("sum(losses)", "sum(others)")


def test_a_variable_that_is_assigned(model: Any) -> None:
    kept = tf.Variable(data())
    found = refused(lambda: kept.assign(model(data())))
    assert found.operation is None
    assert next(found.lines()).startswith(
        "the output of layer 'model/last' in float16 was to become"
    )


class Pinned(keras.layers.Layer):  # type: ignore[misc]
    def call(self, inputs: Any) -> Any:
        half = tf.constant(0.5)
        return inputs * half


@pytest.mark.parametrize("graph", [True, False])
def test_within_a_layer_it_is_the_layers_affair(model: Any, graph: bool) -> None:
    layer = Pinned()
    found = refused(lambda: (tf.function(layer) if graph else layer)(data()))
    assert (found.in_layer, found.rule) == (True, "hardcoded-layer-dtype")
    assert (found.half.name, found.other.name) == ("inputs", "half")
    assert (
        list(found.lines())[-1] == "  to mend it: cast `half` to `self.compute_dtype`, with tf.cast"
    )


def test_float16_that_no_layer_made_is_no_rules_affair() -> None:
    narrow = tf.cast(data(), tf.float16)
    found = refused(lambda: data() + narrow)
    assert (found.half.layer, found.rule) == (None, None)
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        data() + narrow
    cause = cause_of(raised.value)
    assert cause.rule is None and cause.lines[0].startswith(
        "AddV2 got `narrow`, ".replace(",", " in")
    )


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: data() + tf.constant([1, 2, 3, 4]),
        lambda: tf.ones([2, 3]) @ tf.ones([2, 3]),
        lambda: tf.cast(data(), tf.float64) + data(),
    ],
)
def test_other_errors_are_not_explained(wrong: Callable[[], object]) -> None:
    with pytest.raises((TypeError, ValueError, tf.errors.OpError)) as found:
        wrong()
    assert refusal(found.value) is None
    assert cause_of(found.value).lines == []


def test_the_text_alone_leads_to_both_pages() -> None:
    for text in (
        "Input 'y' of 'Sub' Op has type float32 that does not match type float16 of argument 'x'.",
        "Input 'y' of 'Sub' Op has type float16 that does not match type float32 of argument 'x'.",
    ):
        names = {each.name for each in look_up(text)}
        assert names == {"hardcoded-layer-dtype", "raw-loss-on-half-output"}
    text = "of 'ConcatV2' Op have types [float16, float32] that don't all match."
    assert [each.name for each in look_up(text)] == ["raw-loss-on-half-output"]


@pytest.mark.parametrize("graph", [True, False])
def test_a_metric_that_takes_float32_only(model: Any, graph: bool) -> None:
    top = keras.metrics.SparseTopKCategoricalAccuracy(k=2)
    model.compile(optimizer="sgd", loss="mse", metrics=[top], run_eagerly=not graph)
    labels = tf.zeros([2, 1])
    found = refused(lambda: model.evaluate(data(), labels, verbose=0))
    assert (found.kind, found.operation) == ("taken", "InTopKV2")
    assert (found.half.layer, found.other.dtype) == ("model/last", "float32")
    assert found.rule == "output-not-float32"
    assert next(found.lines()).startswith("InTopKV2 got ")


@pytest.mark.parametrize("graph", [True, False])
def test_an_operation_without_a_kernel_for_float16(model: Any, graph: bool) -> None:
    def step(real: Any) -> Any:
        square = model(real)  # outputs of a layer
        made = tf.matmul(square, square, transpose_a=True)
        return tf.linalg.det(made)

    found = refused(lambda: (tf.function(step) if graph else step)(data()))
    assert (found.kind, found.operation) == ("taken", "MatrixDeterminant")
    assert (found.half.dtype, found.other.dtype) == ("float16", "float32")
    assert "tf.cast" in list(found.lines())[-1]


class Fourier(keras.layers.Layer):  # type: ignore[misc]
    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.whole = whole

    def call(self, inputs: Any) -> Any:
        if self.whole:
            return tf.signal.rfft(inputs)
        return keras.ops.fft2((inputs, keras.ops.zeros_like(inputs)))[0]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("graph", [True, False])
def test_a_layer_of_fourier_transforms(model: Any, whole: bool, graph: bool) -> None:
    layer = Fourier(whole)
    found = refused(lambda: (tf.function(layer) if graph else layer)(data()))
    assert (found.kind, found.half.dtype, found.rule) == ("taken", "float16", None)
    assert list(found.lines())[-1] == (
        "  to mend it: tf.cast to float32 before, and the result to `self.compute_dtype`"
    )

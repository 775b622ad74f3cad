"""MP520 in a run: data beyond float16 that a layer or model casts, and data that nothing casts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from mpaudit.finding import Problem  # noqa: E402
from mpaudit.runtime.keras.probe import install  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402
from mpaudit.runtime.tracer import Tracer  # noqa: E402

if keras.backend.backend() != "tensorflow":
    pytest.skip("Keras runs on another backend", allow_module_level=True)

LARGE = numpy.linspace(0, 200_000, 64, dtype="float32").reshape(16, 4)
SMALL = LARGE / 200_000


@pytest.fixture(autouse=True)
def mixed() -> Iterator[None]:
    keras.utils.clear_session()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


def problems(folder: Path, code: Callable[[], Any]) -> list[Problem]:
    tracer = Tracer(folder / "run.mpa", [])
    uninstall = install(tracer)
    try:
        code()
    finally:
        uninstall()
        tracer.close(0)
    with Reader(folder / "run.mpa") as reader:
        assert reader.meta["probe_errors"] == []
        return [each for each in reader.problems() if each.rule == "half-input-range"]


def head() -> Any:
    return keras.layers.Dense(1, dtype="float32")


class Own(keras.Model):
    def __init__(self, *layers: Any) -> None:
        super().__init__()
        self.inner = list(layers)

    def call(self, x: Any) -> Any:
        for layer in self.inner:
            x = layer(x)
        return x


def functional(*layers: Any) -> Any:
    inputs = keras.Input((4,))
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def sequential(*layers: Any) -> Any:
    return keras.Sequential(list(layers))


BUILDERS = [sequential, functional, Own]


def fit(model: Any, x: Any, *, eager: bool = False) -> None:
    model.compile(keras.optimizers.SGD(1e-3), "mse", run_eagerly=eager)
    model.fit(x, numpy.zeros((16, 1), "float32"), batch_size=8, verbose=0)


@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
@pytest.mark.parametrize("build", BUILDERS)
def test_what_is_beyond_float16_is_told_where_the_model_is_trained(
    tmp_path: Path, build: Callable[..., Any], eager: bool
) -> None:
    found = problems(
        tmp_path, lambda: fit(build(keras.layers.Dense(8), head()), LARGE, eager=eager)
    )
    assert len(found) == 1
    largest = float(found[0].message.split()[4])  # of the batches until the first look at them
    assert 65504 < largest <= 200_000
    assert found[0].span.filename == str(Path(__file__))
    line = Path(__file__).read_text().splitlines()[found[0].span.start.row - 1]
    assert "model.fit(x" in line


@pytest.mark.parametrize("build", BUILDERS)
def test_what_is_small_enough_is_not(tmp_path: Path, build: Callable[..., Any]) -> None:
    assert problems(tmp_path, lambda: fit(build(keras.layers.Dense(8), head()), SMALL)) == []


def announced(*layers: Any) -> Any:
    return sequential(keras.Input((4,)), *layers)


@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
@pytest.mark.parametrize("build", [functional, sequential, announced])
def test_a_first_layer_in_float32_casts_nothing(
    tmp_path: Path, build: Callable[..., Any], eager: bool
) -> None:
    scaling = keras.layers.Rescaling(1e-6, dtype="float32")
    model = build(scaling, keras.layers.Dense(8), head())
    assert problems(tmp_path, lambda: fit(model, LARGE, eager=eager)) == []
    assert all(numpy.isfinite(each).all() for each in model.get_weights())


def test_bfloat16_has_the_range(tmp_path: Path) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    assert problems(tmp_path, lambda: fit(sequential(keras.layers.Dense(8), head()), LARGE)) == []


def test_a_mask_beside_the_data_is_none(tmp_path: Path) -> None:
    class Masked(keras.layers.Layer):
        def call(self, x: Any, bias: Any) -> Any:
            return tf.nn.softmax(x + tf.cast(bias, x.dtype))

    layer, bias = Masked(), tf.constant([[0.0, -1e9, 0.0, 0.0]])

    def code() -> None:
        with tf.GradientTape() as tape:
            x = tf.constant(SMALL)
            tape.watch(x)
            layer(x, bias)

    assert problems(tmp_path, code) == []


def test_predictions_are_not_trained(tmp_path: Path) -> None:
    model = sequential(keras.layers.Dense(8), head())
    assert problems(tmp_path, lambda: model.predict(LARGE, verbose=0)) == []

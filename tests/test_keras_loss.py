"""Losses of a run: each says what it is computed from, whether or not Keras says what it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from keras_watched import Heard, read, samples, under, watched

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from mpaudit.event import LossComputed  # noqa: E402
from mpaudit.protocols import machines  # noqa: E402


def squared(target: Any, prediction: Any) -> Any:
    return tf.reduce_mean(tf.square(target - prediction), axis=-1)


class Squared(keras.losses.Loss):  # type: ignore[misc]
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return squared(y_true, y_pred)


LOSSES: dict[str, Callable[[], Any]] = {
    "mean_squared_error": lambda: "mean_squared_error",
    "Huber": lambda: keras.losses.Huber(),
    "squared": lambda: squared,
    "Squared": lambda: Squared(),
}


def fitted(loss: Any, head: str | None, outputs: int = 2) -> None:
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(outputs, dtype=head)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(keras.optimizers.SGD(0.01), loss)
    model.fit(samples(8, 4), samples(8, outputs), batch_size=4, verbose=0)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("policy", "head", "found"),
    [
        ("mixed_float16", None, ["output-not-float32"]),
        ("mixed_float16", "float32", []),
        ("mixed_bfloat16", None, []),
        ("float32", None, []),
    ],
)
def test_an_output_in_half_is_seen_whatever_the_loss(
    tmp_path: Path, name: str, policy: str, head: str | None, found: list[str]
) -> None:
    heard = Heard()
    with watched(tmp_path, heard, *machines()), under(policy, seed=0):
        fitted(LOSSES[name](), head)
    with read(tmp_path) as reader:
        problems = reader.problems()
    assert {(each.loss, each.wants) for each in heard.of(LossComputed)} == {(name, None)}
    assert [each.rule for each in problems] == found
    for problem in problems:
        line = Path(__file__).read_text(encoding="utf-8").splitlines()[problem.span.start.row - 1]
        assert "keras.layers.Dense(outputs" in line
        assert "overflow beyond 65504" in (problem.consequence or "")


def test_each_of_two_outputs_is_judged_by_itself(tmp_path: Path) -> None:
    with watched(tmp_path, *machines()), under("mixed_float16", seed=0):
        given = keras.Input((4,))
        x = keras.layers.Dense(8, activation="relu")(given)
        heads = {
            "kept": keras.layers.Dense(1, dtype="float32", name="kept")(x),
            "half": keras.layers.Dense(1, name="half")(x),
        }
        model = keras.Model(given, heads)
        model.compile("sgd", {"kept": "mae", "half": keras.losses.LogCosh()})
        model.fit(samples(8, 4), {"kept": samples(8, 1), "half": samples(8, 1)}, verbose=0)
    with read(tmp_path) as reader:
        (problem,) = reader.problems()
    line = Path(__file__).read_text(encoding="utf-8").splitlines()[problem.span.start.row - 1]
    assert (problem.rule, 'name="half"' in line) == ("output-not-float32", True)


def test_what_follows_the_output_in_float32_is_the_output(tmp_path: Path) -> None:
    with watched(tmp_path, *machines()), under("mixed_float16", seed=0):
        wide = keras.layers.Activation("linear", dtype="float32")
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), wide])
        model.compile("sgd", "mse")
        model.fit(samples(8, 4), samples(8, 2), verbose=0)
    with read(tmp_path) as reader:
        assert reader.problems() == []

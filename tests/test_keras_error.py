"""An error in a layer: its text, in the script and in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from keras_watched import keras, read, tf, watched

from mpaudit.render.outcome import gist


class Broken(keras.layers.Layer):  # type: ignore[misc]
    def call(self, inputs: Any) -> Any:
        raise ValueError(f"no {inputs.dtype.name}")


def message() -> str:
    keras.utils.clear_session()
    model = keras.Sequential([keras.layers.Activation("relu"), Broken(name="broken")])

    @tf.function
    def step(inputs: Any) -> Any:
        return model(inputs)

    with pytest.raises(ValueError, match="no float32") as found:
        step(tf.ones([2, 2]))
    return str(found.value)


def test_the_text_that_autograph_writes_is_what_it_is_without_the_probe(tmp_path: Path) -> None:
    plain = message()
    assert "in user code" in plain
    with watched(tmp_path):
        assert message() == plain
    assert read(tmp_path).meta["probe_errors"] == []


def test_of_what_autograph_and_keras_write_the_report_says_the_gist() -> None:
    told = gist(f"ValueError: {message()}")
    assert told.startswith("ValueError: Exception encountered when calling ")
    assert told.endswith("no float32")
    assert "\n" not in told and "\x1b" not in told and "File " not in told


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        ("", ""),
        ("ValueError", "ValueError"),
        ("ValueError: mine\n  and more", "ValueError: mine and more"),
        ("E: " + "x" * 1000, "E: " + "x" * 397 + "..."),
    ],
)
def test_other_errors_are_told_in_a_line(error: str, wanted: str) -> None:
    assert gist(error) == wanted

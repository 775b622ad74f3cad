"""Repairs of what float16 cannot hold in layers of Keras: what is applied, what is only shown."""

from __future__ import annotations

import pytest

from mpaudit.audit import check_text, fix_text
from mpaudit.fix import Safety

LAYER = """\
import tensorflow as tf
from tensorflow import keras

keras.mixed_precision.set_global_policy("mixed_float16")


class Block(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(8)

    def call(self, x, mask):
        h = self.dense(x)
        seen = tf.cast(mask, h.dtype)
        {line}
        return h


x, mask = keras.Input((8,)), keras.Input((8,), dtype="bool")
model = keras.Model([x, mask], keras.layers.Dense(2, dtype="float32")(Block()(x, mask)))
model.compile("sgd", "mse")
model.fit([tf.ones((4, 8)), tf.ones((4, 8), tf.bool)], tf.ones((4, 2)))
"""


def test_the_limit_is_taken_from_the_dtype():
    bad = LAYER.format(line="h = tf.nn.softmax(tf.where(seen > 0, h, -1e9))")
    good = LAYER.format(line="h = tf.nn.softmax(tf.where(seen > 0, h, h.dtype.min))")
    assert fix_text(bad, "block.py", unsafe=False) == good
    assert check_text(good, "block.py") == []


@pytest.mark.parametrize(
    ("line", "rule", "shown"),
    [
        ("h += (1.0 - seen) * -1e9", "half-overflow-constant", "seen.dtype.min / 2"),
        ("h = h / tf.norm(h)", "half-reduction", "tf.cast(h, tf.float32)"),
        (
            "h = h / tf.reduce_sum(tf.square(h), -1, True)",
            "half-reduction",
            "tf.cast(h, tf.float32)",
        ),
        ("h = h / (tf.reduce_max(h) + 1e-8)", "half-underflow-epsilon", None),
    ],
)
def test_what_changes_numbers_is_only_shown(line: str, rule: str, shown: str | None):
    bad = LAYER.format(line=line)
    (finding,) = check_text(bad, "block.py")
    assert finding.name == rule
    assert finding.fix is not None
    assert finding.fix.safety is Safety.SUGGESTION
    assert [edit.content for edit in finding.fix.edits] == ([] if shown is None else [shown])
    assert fix_text(bad, "block.py", unsafe=True) == bad


@pytest.mark.parametrize(
    "line",
    [
        "h = tf.reduce_max(tf.where(seen > 0, h, -1e9), -1, True)",
        "h = tf.where(seen > 0, h, h.dtype.min)",
        "h = tf.cast(tf.norm(tf.cast(h, tf.float32)), h.dtype)",
        "h += (1.0 - seen) * -3e4",
    ],
)
def test_what_fits_is_silent(line: str):
    assert check_text(LAYER.format(line=line), "block.py") == []

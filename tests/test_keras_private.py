"""Versions of TensorFlow that lack something which the probe uses and no version promises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from keras_watched import attempts, tf, watched

from mpaudit.runtime.keras.patch import Patches
from mpaudit.runtime.trace import Reader
from mpaudit.runtime.tracer import Tracer


def test_what_the_probe_needs_of_tensorflow_and_is_not_there_does_not_stop_the_run(
    tmp_path: Path,
) -> None:
    """What the probe does is done within a context, which may fail to be made, or to be entered."""

    @contextmanager
    def entered() -> Iterator[None]:
        tf.compat.v1.get_default_graph()._of_another_version()
        yield

    done = []
    tracer = Tracer(tmp_path / "run.mpa", ())
    for within in (entered, lambda: tf.Graph()._of_another_version()):
        with Patches(tracer, within=within).guarded("a look"):
            done.append(within)
    tracer.close(0)
    assert len(done) == 2
    told = Reader(tmp_path / "run.mpa").meta["probe_errors"]
    assert told
    assert all("_of_another_version" in each for each in told)


def test_autograph_rewrites_no_part_of_the_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """TensorFlow 2.16 has autograph rewrite Keras 2, and whatever wraps it."""
    old = pytest.importorskip("tf_keras")
    from tensorflow.python.autograph.core import config

    rules = [each for each in config.CONVERSION_RULES if each._prefix != "tf_keras"]
    monkeypatch.setattr(config, "CONVERSION_RULES", tuple(rules))
    layer = old.layers.Dense(1, dtype="float32")
    layer.build((None, 2))
    optimizer = old.mixed_precision.LossScaleOptimizer(old.optimizers.SGD(0.01))

    @tf.function
    def step(inputs: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = optimizer.get_scaled_loss(tf.reduce_mean(layer(inputs)))
        gradients = tape.gradient(loss, layer.trainable_variables)
        gradients = optimizer.get_unscaled_gradients(gradients)
        optimizer.apply_gradients(zip(gradients, layer.trainable_variables, strict=True))

    with watched(tmp_path):
        step(tf.ones([4, 2]))
    reader = Reader(tmp_path / "run.mpa")
    assert reader.meta["probe_errors"] == []
    assert attempts(reader) == {0: (True, 32768.0)}
    assert "could not transform" not in caplog.text

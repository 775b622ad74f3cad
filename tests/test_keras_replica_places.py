"""Findings of a `fit` on two replicas, which are computed in threads of their own: where they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpaudit.finding import Problem
from mpaudit.runtime.trace import Reader

pytest.importorskip("tensorflow")

ROOT = Path(__file__).parents[1]
SCRIPT = """
import contextlib, importlib, sys
import numpy
import tensorflow as tf

package, kind, replicas = *sys.argv[1:3], int(sys.argv[3])
keras = importlib.import_module(package)
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
scope = strategy.scope() if replicas > 1 else contextlib.nullcontext()
keras.utils.set_random_seed(3)
keras.mixed_precision.set_global_policy("mixed_float16")


class Own(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = criterion(y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        return {"loss": loss}


x = numpy.full((16, 4), 1e5, "float32")
y = numpy.zeros((16, 1), "int32")
with scope:
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8)(inputs)
    outputs = keras.layers.Dense(3, activation="softmax", dtype="float32")(hidden)
    model = (Own if kind == "own" else keras.Model)(inputs, outputs)
    criterion = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="sum" if kind == "own" else "sum_over_batch_size"
    )
    model.compile(keras.optimizers.SGD(1e-3), criterion)
model.fit(x, y, batch_size=8, epochs=2, verbose=0)
"""


def problems(folder: Path, *arguments: str) -> list[Problem]:
    script, trace = folder / "train.py", folder / f"{arguments[-1]}.mpa"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "mpaudit", "run", "-o", str(trace), str(script), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with Reader(trace) as reader:
        assert reader.meta["probe_errors"] == []
        return reader.problems()


def told(found: list[Problem]) -> list[Any]:
    """All but that the layer overflows, which tells on which replicas it does."""
    return sorted(
        (each.rule, repr(each.span), each.message, repr(each.related))
        for each in found
        if each.rule != "activation-overflow"
    )


@pytest.mark.parametrize(
    ("package", "kind"),
    [
        ("keras", "fit"),
        pytest.param("tf_keras", "fit", marks=pytest.mark.slow),
        pytest.param("keras", "own", marks=pytest.mark.slow),
    ],
)
def test_what_one_replica_is_told_two_are_told_at_the_same_lines(
    tmp_path: Path, package: str, kind: str
) -> None:
    pytest.importorskip(package)
    one = problems(tmp_path, package, kind, "1")
    two = problems(tmp_path, package, kind, "2")
    assert {each.rule for each in one} >= {"half-input-range", "softmax-with-from-logits"}
    (at,) = [each.span.start.row for each in two if each.rule == "half-input-range"]
    assert ("self(x" if kind == "own" else "model.fit(") in SCRIPT.splitlines()[at - 1]
    assert told(two) == told(one)

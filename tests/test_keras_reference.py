"""Keras runs beside their float32 reference: real trainings, by `fit` and by loops of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from keras_watched import keras, numpy, tf, under

from mpaudit.runtime.keras.float32 import Float32, rounded, same_noise
from mpaudit.runtime.keras.on_tensorflow import Keras3OnTensorFlow
from mpaudit.runtime.keras.patch import Patches
from mpaudit.runtime.trace import Reader
from mpaudit.runtime.tracer import Tracer

ROOT = Path(__file__).parents[1]
FIT = """
import keras, numpy

{seed}
keras.config.set_dtype_policy("{policy}")
random = numpy.random.default_rng(0)
x = {small} * random.normal(size=(512, 16)).astype("float32")
y = x[:, :4].argmax(axis=1)
model = keras.Sequential([
    keras.Input((16,)),
    keras.layers.Rescaling({small} ** -0.5),
    keras.layers.Rescaling({small} ** -0.5),
    keras.layers.Dense(32, activation="relu"),
    keras.layers.Dropout(0.1),
    keras.layers.Dense(4, dtype="float32"),
])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile({optimizer}, loss{how})
model.fit(x, y, batch_size=64, epochs={epochs}, verbose=0)
print(model.evaluate(x, y, verbose=0))
open("end.txt", "a").write("end\\n")
"""
SCALED = "keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), initial_scale=2.0**28)"
PLAIN = {
    "seed": "keras.utils.set_random_seed(0)",
    "policy": "mixed_float16",
    "small": "1.0",
    "optimizer": "keras.optimizers.SGD(0.5)",
    "epochs": "6",
    "how": "",
}
LOOP = """
import keras, numpy
import tensorflow as tf

keras.utils.set_random_seed(0)
keras.config.set_dtype_policy("mixed_float16")
x = numpy.random.default_rng(0).normal(size=(512, 16)).astype("float32")
y = x[:, :4].argmax(axis=1)
model = keras.Sequential([
    keras.Input((16,)),
    keras.layers.Dense(32, activation="relu"),
    keras.layers.Dense(4, dtype="float32"),
])
optimizer = keras.optimizers.SGD({rate})
loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

{decorator}
def step(samples, targets):
    with tf.GradientTape() as tape:
        loss = {factor} * loss_fn(targets, model(samples, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)

for epoch in range(5):
    for samples, targets in tf.data.Dataset.from_tensor_slices((x, y)).batch(64):
        step(samples, targets)
"""


def run(folder: Path, code: str, steps: int = 40) -> tuple[str, Reader]:
    script, trace = folder / "train.py", folder / "train.mpa"
    script.write_text(code)
    command = [sys.executable, "-m", "mpaudit", "run", "--reference", str(steps), "-o", str(trace)]
    done = subprocess.run(
        [*command, str(script)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr, Reader(trace)


def fit(**changes: str) -> str:
    return FIT.format(**{**PLAIN, **changes})


def found(reader: Reader) -> Any:
    return [each for each in reader.problems() if each.rule == "diverges-from-float32"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["", ", run_eagerly=True"])
def test_inputs_that_float16_loses_are_told_from_float32s(tmp_path: Path, how: str) -> None:
    """A Rescaling under the policy casts them before it multiplies: they are 0 by then."""
    code = fit(small="1e-8", how=how)
    said, reader = run(tmp_path, code)
    (problem,) = found(reader)
    assert "model.fit(" in code.splitlines()[problem.span.start.row - 1]
    assert problem.message.startswith("the loss leaves that of float32 from step ")
    assert reader.meta["reference"] == {"steps": 40, "diverges": True, "refused": None}
    assert problem.message in said
    assert (tmp_path / "end.txt").read_text() == "end\n"  # the rehearsals were over before


@pytest.mark.slow
def test_a_fit_whose_steps_are_skipped_is_left_alone(tmp_path: Path) -> None:
    said, reader = run(tmp_path, fit(optimizer=SCALED))
    assert any(each.applied is False for each in reader.attempts())  # the scale was too high
    assert found(reader) == []
    assert reader.meta["reference"] == {"steps": 40, "diverges": False, "refused": None}
    assert "40 steps do not leave float32" in said


@pytest.mark.slow
@pytest.mark.parametrize("decorator", ["@tf.function", "@tf.function(jit_compile=True)"])
def test_gradients_that_float16_loses_in_a_loop_of_its_own(tmp_path: Path, decorator: str) -> None:
    code = LOOP.format(decorator=decorator, rate="0.5e7", factor="1e-7")
    _, reader = run(tmp_path, code)
    (problem,) = found(reader)
    assert "optimizer.apply(" in code.splitlines()[problem.span.start.row - 1]
    assert reader.meta["reference"]["steps"] == 40


PURE = """
import keras, numpy

keras.utils.set_random_seed(0)
keras.config.set_dtype_policy("{policy}")
x = numpy.random.default_rng(0).normal(size=(512, 16)).astype("float32")
y = x[:, :4].argmax(axis=1)
model = keras.Sequential([
    keras.Input((16,)),
    keras.layers.Dense(4, kernel_initializer=keras.initializers.Constant(8.0), use_bias=False),
    keras.layers.Activation("linear", dtype="float32"),
])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.SGD(0.05), loss{how})
model.fit(x, y, batch_size=64, epochs=6, verbose=0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["", ", jit_compile=True", ", run_eagerly=True"])
@pytest.mark.parametrize(("policy", "departs"), [("bfloat16", True), ("mixed_bfloat16", False)])
def test_weights_that_are_kept_in_bfloat16_do_not_move(
    tmp_path: Path, policy: str, departs: bool, how: str
) -> None:
    """An update of less than 0.2 % of a weight is rounded away; those of a mixed policy are kept."""
    _, reader = run(tmp_path, PURE.format(policy=policy, how=how))
    assert reader.meta["reference"] == {"steps": 40, "diverges": departs, "refused": None}
    assert [each.rule for each in found(reader)] == ["diverges-from-float32"] * departs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"seed": ""}, "a seed is missing (keras.utils.set_random_seed)"),
        ({"policy": "float32"}, "nothing ran in low precision"),
    ],
)
def test_what_cannot_be_compared_is_said(tmp_path: Path, changes: dict[str, str], why: str) -> None:
    said, reader = run(tmp_path, fit(**changes))
    assert found(reader) == []
    assert why in reader.meta["reference"]["refused"]
    assert f"cannot compare with float32: {reader.meta['reference']['refused']}" in said


@pytest.mark.slow
def test_keras_2_is_refused(tmp_path: Path) -> None:
    """Its policies would compute as ever: two runs that are the same would be called float32."""
    pytest.importorskip("tf_keras")
    code = fit().replace("import keras, numpy", "import tf_keras as keras, numpy")
    policy = "keras.mixed_precision.set_global_policy"
    said, reader = run(tmp_path, code.replace("keras.config.set_dtype_policy", policy))
    assert found(reader) == []
    assert "recorded nothing" in reader.meta["reference"]["refused"]
    assert "cannot compare with float32" in said


@contextmanager
def changed(folder: Path, change: Callable[[Patches], object]) -> Iterator[None]:
    """What `change` does to Keras, under a mixed policy and a seed of its own."""
    tracer = Tracer(folder / "run.mpa", [])
    patches = Patches(tracer)
    try:
        change(patches)
        with under("mixed_float16", seed=0):
            yield
        assert tracer.fact("probe_errors") == []
    finally:
        patches.restore()
        tracer.close(0)


def float32(digits: int | None) -> Callable[[Patches], None]:
    return lambda patches: Float32(patches, digits).follow(Keras3OnTensorFlow())


def built() -> Any:
    hidden = keras.layers.Dense(8, activation="relu", bias_initializer="normal")
    head = keras.layers.Dense(3, bias_initializer="normal", dtype="float32")
    return keras.Sequential([keras.Input((5,)), hidden, head])


X = numpy.random.default_rng(1).normal(size=(4, 5)).astype("float32")


def gradients(model: Any) -> list[Any]:
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(X, training=True) ** 2)
    return [each.numpy() for each in tape.gradient(loss, model.trainable_variables)]


def test_a_mixed_policy_computes_as_that_of_float32(tmp_path: Path) -> None:
    with under("float32", seed=0):
        plain = built()
        wanted, back = plain(X).numpy(), gradients(plain)
    with changed(tmp_path, float32(None)):
        model = built()
        hidden = model.layers[0]
        assert (hidden.dtype_policy.name, hidden.compute_dtype) == ("mixed_float16", "float32")
        assert (model(X).numpy() == wanted).all()
        assert all((a == b).all() for a, b in zip(gradients(model), back, strict=True))
        assert tf.cast(X, tf.float16).dtype == keras.ops.cast(X, "bfloat16").dtype == tf.float32
    assert tf.cast(X, tf.float16).dtype == tf.float16


@pytest.mark.parametrize("graph", [False, True])
def test_layers_of_a_mixed_policy_are_rounded_and_no_others(tmp_path: Path, graph: bool) -> None:
    with changed(tmp_path, float32(11)):
        model = built()
        first, bias, second, offset = (each.numpy() for each in model.trainable_variables)
        call = tf.function(model) if graph else model
        found, back = call(tf.constant(X)).numpy(), gradients(model)

    def low(value: Any) -> Any:
        return value.astype("float16").astype("float32")

    hidden = low(numpy.maximum(low(X) @ low(first) + low(bias), 0))
    outer = hidden @ second + offset
    numpy.testing.assert_allclose(found, outer, rtol=1e-6)
    numpy.testing.assert_allclose(back[2], hidden.T @ (2 * outer), rtol=1e-6)
    incoming = low(2 * outer @ second.T) * (hidden > 0)
    numpy.testing.assert_allclose(back[0], low(low(X).T @ incoming), rtol=2e-3)
    assert (back[0] == low(back[0])).all() and (back[1] == low(back[1])).all()


def test_what_float16_could_not_hold_is_kept(tmp_path: Path) -> None:
    with changed(tmp_path, float32(11)):
        layer = keras.layers.Rescaling(1e6)
        assert layer(numpy.float32([1.0, 1e-9])).numpy() == pytest.approx([1e6, 1e-3], rel=1e-3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_noise_in_low_precision_is_that_of_float32(tmp_path: Path, policy: str) -> None:
    def drawn(policy: str) -> list[Any]:
        keras.utils.set_random_seed(7)
        layers = [
            keras.layers.Dropout(0.5, dtype=policy),
            keras.layers.GaussianNoise(1.0, dtype=policy),
        ]
        ones = numpy.ones((64, 8), "float32")
        return [tf.cast(each(ones, training=True), tf.float32).numpy() for each in layers]

    wanted = drawn("float32")
    with changed(tmp_path, same_noise):
        found = drawn(policy)
    for one, other in zip(found, wanted, strict=True):
        numpy.testing.assert_allclose(one, other, rtol=2e-2, atol=2e-2)
    assert (found[0] == wanted[0]).all()
    assert not numpy.allclose(drawn(policy)[0], wanted[0])  # TensorFlow's own is another


@pytest.mark.parametrize(("digits", "name"), [(11, "float16"), (8, "bfloat16")])
def test_rounding_is_that_of_the_dtype_within_its_range(digits: int, name: str) -> None:
    values = tf.constant(numpy.random.default_rng(0).normal(size=1000), tf.float32)
    wanted = tf.cast(tf.cast(values, name), tf.float32)
    assert (rounded(values, digits).numpy() == wanted.numpy()).all()
    beyond = numpy.array([1e30, -1e-30, numpy.inf, -numpy.inf, 0.0], "float32")
    kept = rounded(tf.constant(beyond), digits).numpy()
    assert numpy.abs(kept[:2] - beyond[:2]).max() <= 1e30 * 2.0**-digits
    assert (kept[2:] == beyond[2:]).all()
    assert numpy.isnan(rounded(tf.constant([numpy.nan]), digits).numpy()).all()

"""`keras_replicas.py HOW [TRACE]`: a training on two replicas; with a TRACE, under the probe.

HOW is "fit", or "light" of the same, or a loop that is "eager" or a "function", or "odd" of the latter,
with batches that replicas cannot share evenly. `--strategy` is "mirrored", or "one" or "multi", which
have one replica each. In one step one REPLICA overflows: by its inputs, or with
`--bad targets` on the way back. Printed is what the layers of each step held, as it was computed a
second time: replica by replica, without the probe, from the weights before the step; and the casts of
the model's graph as one replica has it: source, target, bytes that each writes whatever the batch, and
bytes for each sample.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy
import tensorflow as tf

from mpaudit.runtime.keras.probe import install
from mpaudit.runtime.sampling import Sampling
from mpaudit.runtime.tracer import Tracer

STEPS = 3
_ARGUMENTS = argparse.ArgumentParser()
_ARGUMENTS.add_argument("how")
_ARGUMENTS.add_argument("trace", nargs="*")
_ARGUMENTS.add_argument("--keras", default="keras")
_ARGUMENTS.add_argument("--bad", default="inputs")
_ARGUMENTS.add_argument("--replica", type=int, default=0)
_ARGUMENTS.add_argument("--strategy", default="mirrored")
GIVEN = _ARGUMENTS.parse_args()
REPLICAS = 2 if GIVEN.strategy == "mirrored" else 1
keras = importlib.import_module(GIVEN.keras)
BATCH = 7 if GIVEN.how == "odd" else 8
BAD = 1  # the step in which one replica overflows
SCALE = 512.0


def data() -> tuple[Any, Any]:
    random = numpy.random.default_rng(3)
    x = random.normal(size=(STEPS * BATCH, 6)).astype("float32")
    y = random.normal(size=(STEPS * BATCH, 3)).astype("float32")
    sample = BAD * BATCH + GIVEN.replica * BATCH // REPLICAS
    if GIVEN.bad == "inputs":
        x[sample, 0] = 1e5  # infinity in float16
    else:
        y[sample] = 1e4  # as is the gradient of what was cast from float16, with the loss scale
    return x, y


def by_hand(first: Any, bias: Any, second: Any, offset: Any, x: Any, y: Any, scale: Any) -> Any:
    """What one replica computes of its part of a batch, by operations of TensorFlow alone."""
    weights = [first, bias, second, offset]
    inputs = tf.cast(x, tf.float16)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        hidden = tf.nn.relu(inputs @ tf.cast(first, tf.float16) + tf.cast(bias, tf.float16))
        outer = tf.cast(hidden, tf.float32) @ second + offset
        loss = tf.reduce_mean((outer - y) ** 2) / REPLICAS * scale
    hidden_back, outer_back, *gradients = tape.gradient(loss, [hidden, outer, *weights])
    return {
        "dense forward": hidden,
        "dense backward": hidden_back,
        "head forward": outer,
        "head backward": outer_back,
        "dense weight_gradient": gradients[:2],
        "head weight_gradient": gradients[2:],
    }


class Held:
    """The tensors of each place, of all steps and replicas."""

    def __init__(self, *, eager: bool) -> None:
        self.found: dict[str, list[Any]] = {}
        self._compute = by_hand if eager else tf.function(by_hand)

    def add(self, weights: list[Any], x: Any, y: Any, scale: float) -> None:
        for part in zip(*(numpy.array_split(each, REPLICAS) for each in (x, y)), strict=True):
            given = map(tf.constant, (*weights, *part, scale))
            for place, value in self._compute(*given).items():
                held = self.found.setdefault(place, [])
                for each in value if isinstance(value, list) else [value]:
                    held.append(each.numpy().astype(float).reshape(-1).tolist())


def casts(model: Any) -> list[tuple[str, str, int, int]]:
    """The casts between floating dtypes in a graph of the model."""
    spec = tf.TensorSpec([None, 6])
    graph = tf.function(lambda x: model(x, training=True)).get_concrete_function(spec).graph
    found = []
    for each in graph.get_operations():
        if each.type == "Cast" and each.inputs[0].dtype.is_floating:
            (result,), sizes = each.outputs, each.outputs[0].shape.as_list()
            written = math.prod(size for size in sizes if size is not None) * result.dtype.size
            open_ = None in sizes
            kind = each.inputs[0].dtype.name, result.dtype.name
            found.append((*kind, 0 if open_ else written, written if open_ else 0))
    return found


def main() -> None:
    how, traces = GIVEN.how, GIVEN.trace
    (cpu,) = tf.config.list_physical_devices("CPU")
    half = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [half, half])
    if GIVEN.strategy == "one":
        strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    elif GIVEN.strategy == "multi":
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == REPLICAS
    tf.config.experimental.enable_op_determinism()
    tracers = [Tracer(Path(each), (), Sampling(every=1, light=how == "light")) for each in traces]
    uninstall = [install(each) for each in tracers]
    keras.utils.set_random_seed(5)
    if keras.__name__ == "keras":
        keras.config.set_dtype_policy("mixed_float16")
        scaling = keras.optimizers.LossScaleOptimizer
    else:
        keras.mixed_precision.set_global_policy("mixed_float16")
        scaling = keras.mixed_precision.LossScaleOptimizer
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(8, activation="relu", name="dense"),
                keras.layers.Dense(3, dtype="float32", name="head"),
            ],
            name="model",
        )
        inner = keras.optimizers.SGD(0.01)
        optimizer = scaling(inner, initial_scale=SCALE)
        model.compile(optimizer, "mse")
        optimizer.build(model.trainable_variables)
    x, y = data()
    held, scale = Held(eager=how == "eager"), SCALE

    def before(step: int) -> None:
        nonlocal scale
        part = slice(step * BATCH, (step + 1) * BATCH)
        held.add(model.get_weights(), x[part], y[part], scale)
        skipped = step == BAD and (GIVEN.replica == 0 or keras.__name__ == "tf_keras")
        scale = scale / 2 if skipped else scale

    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
    if how in ("fit", "light"):

        class Before(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
                before(batch)

        model.fit(batches, verbose=0, callbacks=[Before()])
    else:

        def one(inputs: Any, targets: Any) -> None:
            with tf.GradientTape() as tape:
                difference = model(inputs, training=True) - targets
                loss = tf.reduce_mean(difference * difference) / REPLICAS
                loss = optimizer.scale_loss(loss)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)

        def step(inputs: Any, targets: Any) -> None:
            strategy.run(one, args=(inputs, targets))

        run = step if how == "eager" else tf.function(step)
        for number, batch in enumerate(strategy.experimental_distribute_dataset(batches)):
            before(number)
            run(*batch)
    weights = [each.tobytes().hex() for each in model.get_weights()]
    for each, tracer in zip(uninstall, tracers, strict=True):
        each()
        tracer.close(0)
    print(json.dumps({"held": held.found, "weights": weights, "casts": casts(model)}))


if __name__ == "__main__":
    main()

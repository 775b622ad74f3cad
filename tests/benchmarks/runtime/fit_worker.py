"""`fit_worker.py SHAPE WATCHER`: a training of Keras that steps when it is told to, and says how long.

A line "N" on standard input asks for N steps; answered is a line with seconds on the wall, and of the
processor. "weights" asks for a digest of all weights. It ends with the input. A SHAPE that ends in
"-xla" is compiled by XLA, one in "-same" computes the same bits each time. WATCHER is "none", or a tool
that is called from a script.
"""

from __future__ import annotations

import hashlib
import sys
import time
from typing import Any

import keras
import numpy
import tensorflow as tf

TOY, RESNET = "toy", "resnet"
XLA, SAME = "-xla", "-same"
BATCH = {TOY: 64, RESNET: 16}


def model(shape: str, *, xla: bool) -> Any:
    """A model that is compiled for `fit`."""
    keras.utils.set_random_seed(0)
    if shape == TOY:
        widths = [keras.layers.Dense(128, activation="relu") for _ in range(3)]
        made = keras.Sequential([keras.Input((64,)), *widths, keras.layers.Dense(10)])
    else:
        made = keras.applications.ResNet50(
            weights=None, input_shape=(96, 96, 3), classes=10, classifier_activation=None
        )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile(keras.optimizers.SGD(0.01), loss, jit_compile=xla)
    return made


def batches(shape: str, trained: Any) -> Any:
    """The same batch without an end."""
    random = numpy.random.default_rng(0)
    inputs = random.normal(size=(BATCH[shape], *trained.input_shape[1:])).astype("float32")
    labels = numpy.arange(BATCH[shape]) % 10
    return tf.data.Dataset.from_tensors((inputs, labels)).repeat()


def main() -> None:
    name, watcher = sys.argv[1:]
    shape = name.removesuffix(XLA).removesuffix(SAME)
    if name.endswith(SAME):
        tf.config.experimental.enable_op_determinism()
    if watcher == "enable_check_numerics":
        tf.debugging.enable_check_numerics()
    trained = model(shape, xla=name.endswith(XLA))
    data = batches(shape, trained)
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "weights":
            kept = b"".join(each.tobytes() for each in trained.get_weights())
            print(hashlib.sha256(kept).hexdigest(), flush=True)
            continue
        began, used = time.perf_counter(), time.process_time()
        trained.fit(data, steps_per_epoch=int(line), verbose=0)
        print(time.perf_counter() - began, time.process_time() - used, flush=True)


if __name__ == "__main__":
    main()

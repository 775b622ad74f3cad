"""A script of Keras on torch: pieces of training, each traced, and what each computed by itself.

Started by test_keras_torch.py in a process of its own, in a folder where it may write: a backend is
chosen once for a process.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import mpaudit

BATCH, STEPS = 8, 6


def data() -> tuple[Any, Any]:
    random = numpy.random.default_rng(0)
    samples = random.normal(size=(BATCH * STEPS, 12)).astype("float32")
    return samples, random.integers(0, 4, BATCH * STEPS)


def start(policy: str = "mixed_float16") -> None:
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)


def network(*, large: float | None = None) -> Any:
    """Dense layers first, second, out; the kernel of the second one is `large`."""
    inputs = keras.Input((12,))
    x = keras.layers.Dense(16, activation="relu", name="first")(inputs)
    fill = "glorot_uniform" if large is None else keras.initializers.Constant(large)
    x = keras.layers.Dense(16, kernel_initializer=fill, name="second")(x)
    x = keras.layers.Dense(4, dtype="float32", name="out")(x)
    return keras.Model(inputs, x, name="net")


class Net(keras.Model):
    """The same by hand, with a layer of torch in it."""

    def __init__(self) -> None:
        super().__init__(name="hand")
        self.first = keras.layers.Dense(16, activation="relu", name="first")
        self.second = keras.layers.TorchModuleWrapper(
            torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Tanh()),
            dtype="float32",
            name="second",
        )
        self.out = keras.layers.Dense(4, dtype="float32", name="out")

    def call(self, x: Any) -> Any:
        return self.out(self.second(self.first(x)))


def loss_of() -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Recomputed(keras.callbacks.Callback):
    """What each step of `fit` should show: computed by torch alone, from the weights before it."""

    def __init__(self, samples: Any, labels: Any) -> None:
        super().__init__()
        self.steps: list[dict[str, Any]] = []
        self._data = torch.from_numpy(samples), torch.from_numpy(labels)
        self._progress = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        optimizer = self.model.optimizer
        scale = optimizer.dynamic_scale if optimizer.built else optimizer.initial_scale
        samples, labels = (each[batch * BATCH : (batch + 1) * BATCH] for each in self._data)
        weights = [torch.tensor(numpy.array(each)) for each in self.model.get_weights()]
        half = [each.half() for each in weights[:4]]
        first = functional.relu(samples.half() @ half[0] + half[1]).requires_grad_()
        second = first @ half[2] + half[3]
        out = second.float() @ weights[4] + weights[5]
        loss = functional.cross_entropy(out, labels)
        gradients = torch.autograd.grad(loss * float(scale), (first, second))
        self.steps.append(
            {
                "scale": float(scale),
                "loss": float(loss),
                "first": _amax(first),
                "second": _amax(second),
                "out": _amax(out),
                "gradient of first": _amax(gradients[0]),
                "gradient of second": _amax(gradients[1]),
            }
        )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        now = int(self.model.optimizer.iterations)
        self.steps[-1]["applied"] = now != self._progress
        self._progress = now


def _amax(tensor: Any) -> float:
    values = tensor.detach().double().abs()
    return float(values[values.isfinite()].max())


def fit() -> Any:
    start()
    samples, labels = data()
    model = network()
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=2.0**20, dynamic_growth_steps=2
    )
    model.compile(optimizer, loss_of())
    recomputed = Recomputed(samples, labels)
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    model.fit(samples, labels, callbacks=[recomputed], **options)
    return recomputed.steps


def by_default() -> Any:
    start()
    samples, labels = data()
    model = network()
    model.compile("sgd", loss_of())
    model.fit(samples, labels, batch_size=BATCH, verbose=0)
    return None


def by_hand(
    *, optimizer: str = "scaled", scaled: bool = True, policy: str = "mixed_float16"
) -> Any:
    """A loop over a subclassed model."""
    start(policy)
    samples, labels = data()
    samples[BATCH : 2 * BATCH] *= 3e3
    model, crit = Net(), loss_of()
    plain = keras.optimizers.SGD(0.1)
    wrapped = keras.optimizers.LossScaleOptimizer(plain) if optimizer == "scaled" else plain
    losses = []
    for begin in range(0, len(samples), BATCH):
        x, y = (torch.from_numpy(each[begin : begin + BATCH]) for each in (samples, labels))
        loss = crit(y, model(x))
        model.zero_grad()
        if scaled:
            wrapped.scale_loss(loss).backward()
        else:
            loss.backward()
        variables = model.trainable_weights
        wrapped.apply([each.value.grad for each in variables], variables)
        losses.append(float(loss.detach()))
    return {"losses": losses, "scale": float(getattr(wrapped, "dynamic_scale", 1.0))}


def torchs_own() -> Any:
    """Layers of Keras, an optimizer and a scaler of torch."""
    start()
    samples, labels = data()
    model = network(large=3.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    scales = []
    for begin in range(0, len(samples), BATCH):
        x, y = (torch.from_numpy(each[begin : begin + BATCH]) for each in (samples, labels))
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scales.append(scaler.get_scale())
        scaler.step(optimizer)
        scaler.update()
    return scales


def overflows() -> Any:
    start()
    samples, labels = data()
    model = network(large=3e4)
    model.compile("sgd", loss_of())
    model.fit(samples, labels, batch_size=BATCH, verbose=0)
    return None


def late() -> Any:
    start("float32")
    samples, labels = data()
    model = network()
    keras.config.set_dtype_policy("mixed_float16")
    model.compile("sgd", loss_of())
    model.fit(samples, labels, batch_size=BATCH, verbose=0)
    return None


def probabilities() -> Any:
    start()
    samples, labels = data()
    inputs = keras.Input((12,))
    x = keras.layers.Dense(4, activation="softmax", dtype="float32", name="out")(inputs)
    model = keras.Model(inputs, x)
    model.compile("sgd", loss_of())
    model.fit(samples, labels, batch_size=BATCH, verbose=0)
    return None


def beyond() -> Any:
    start()
    samples, labels = data()
    model = network()
    model.compile("sgd", loss_of())
    model.fit(samples * 1e5, labels, batch_size=BATCH, shuffle=False, verbose=0)
    return float(numpy.abs(samples[:BATCH] * 1e5).max())


class Conversions(TorchDispatchMode):
    """Counts the conversions between floating dtypes below autograd: source, target, bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, str, int]] = Counter()

    def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        if operation is torch.ops.aten._to_copy.default and args[0].dtype != result.dtype:
            name = str(args[0].dtype)[6:], str(result.dtype)[6:]
            self.found[(*name, result.numel() * result.itemsize)] += 1
        return result


def casts() -> Any:
    """Two steps; what a call converts is counted in one that is not a step."""
    start()
    inputs = keras.Input((12,))
    x = keras.layers.Dense(16, activation="relu", name="first")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    model = keras.Model(inputs, keras.layers.Dense(4, dtype="float32", name="out")(x))
    samples, labels = data()
    with torch.no_grad(), Conversions() as seen:
        model(torch.from_numpy(samples[:BATCH]), training=True)
    model.compile("sgd", loss_of())
    model.fit(samples[: 2 * BATCH], labels[: 2 * BATCH], batch_size=BATCH, verbose=0)
    return [[*name, number] for name, number in seen.found.items()]


PIECES: dict[str, Callable[[], Any]] = {
    "fit": fit,
    "default": by_default,
    "loop": by_hand,
    "unscaled": lambda: by_hand(scaled=False),
    "unwrapped": lambda: by_hand(optimizer="plain", scaled=False),
    "bfloat16": lambda: by_hand(optimizer="plain", scaled=False, policy="mixed_bfloat16"),
    "torchs": torchs_own,
    "overflows": overflows,
    "late": late,
    "probabilities": probabilities,
    "beyond": beyond,
    "casts": casts,
}


def main() -> None:
    for name, piece in PIECES.items():
        with mpaudit.trace(f"{name}.mpa", every=1):
            found = piece()
        Path(f"{name}.json").write_text(json.dumps(found))
    with mpaudit.trace("light.mpa", light=True):
        Path("light.json").write_text(json.dumps(fit()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

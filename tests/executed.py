"""Running scripts, many of them and fast: how each ended, and what became of its parameters.

As a program it is the process that has a framework loaded and forks for every script. CUDA calls run
on the CPU as under `mpaudit run`, random numbers are seeded, and SGD takes the place of optimizers of
Adam's kind, which hide constant factors.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SECONDS = 120  # for one script
_ADAPTIVE = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta")
_BESIDE_TORCH = (
    "torch._dynamo",  # the first optimizer imports it
    "torch.distributed.fsdp",
    "accelerate",
    "lightning",
    "pytorch_lightning",
    "torchmetrics",
    "transformers.trainer",
)


@dataclass(frozen=True)
class End:
    """How a script ended: its last error ("" for none), and (sum, sum of squares) of each parameter
    that an optimizer had at the end."""

    error: str
    parameters: list[list[float]]

    @property
    def finite(self) -> bool:
        """Whether no parameter has become inf or NaN."""
        return all(math.isfinite(each) for pair in self.parameters for each in pair)

    def like(self, other: End, tolerance: float = 1e-3) -> bool:
        """Whether both came to the same parameters."""
        return len(self.parameters) == len(other.parameters) and all(
            math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
            for mine, theirs in zip(self.parameters, other.parameters, strict=True)
            for a, b in zip(mine, theirs, strict=True)
        )


@dataclass(frozen=True)
class Watched:
    """What `mpaudit run` tells of a script: its last error ("" for none), faults of the probe, and
    (rule, filename, row, message) of each finding."""

    error: str
    faults: list[str]
    findings: list[list[Any]]


class Executor:
    """A process with "torch" or "keras" loaded; as "watched" it has torch, and runs under mpaudit."""

    def __init__(self, framework: str) -> None:
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        extra = {"PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, framework],
            env={**os.environ, **extra, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, text: str, path: Path) -> End:
        """Run a script; modules beside `path` are found, and it is called as that is."""
        return End(*self._ask(text, path))

    def watch(self, text: str, path: Path) -> Watched:
        """Run a script in the same way under `mpaudit run --device cpu`."""
        return Watched(*self._ask(text, path))

    def _ask(self, text: str, path: Path) -> list[Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([text, str(path)]) + "\n")
        self._process.stdin.flush()
        answer: list[Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _serve(framework: str) -> None:
    prepare = {"keras": _prepare_keras}.get(framework, _prepare_torch)
    prepare(load=True)
    nothing = [f"no end in {SECONDS} s, or it died", []] + [[]] * (framework == "watched")
    if framework == "torch":
        for name in _BESIDE_TORCH:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    for line in sys.stdin:
        text, path = json.loads(line)
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            os.close(read)
            try:
                place = _enter(text, path)
                ended = _watch(place) if framework == "watched" else _run(text, place, prepare)
                os.write(write, json.dumps(ended).encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            data = pipe.read().decode()
        os.waitpid(child, 0)
        print(data or json.dumps(nothing), flush=True)


def _enter(text: str, path: str) -> str:
    """Put a script into a folder of its own, and this process there; returns its path."""
    os.chdir(tempfile.mkdtemp(prefix="executed-"))
    folder = str(Path(path).parent)
    path = str(Path.cwd() / Path(path).name)
    Path(path).write_text(text, encoding="utf-8")  # autograph reads the source of what it compiles
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    signal.alarm(SECONDS)
    random.seed(0)
    sys.path.insert(0, folder)
    return path


def _watch(path: str) -> list[Any]:
    from mpaudit.runtime.launch import run
    from mpaudit.runtime.trace import Reader

    code = run(path, [], device="cpu")
    for trace in Path.cwd().glob("*.mpa"):
        with Reader(trace) as reader:
            error = reader.meta["exception"] or (f"SystemExit: {code}" if code else "")
            found = [
                [each.rule, each.span.filename, each.span.start.row, each.message]
                for each in reader.problems()
            ]
            return [error, reader.meta["probe_errors"], found]
    return ["a framework is missing", [], []]


def _run(text: str, path: str, prepare: Any) -> list[Any]:
    sys.argv = [path]
    sys.path.insert(0, str(Path.cwd()))
    module = types.ModuleType("__main__")
    module.__file__ = path
    sys.modules["__main__"] = module
    parameters = prepare(load=False)
    error = ""
    try:
        exec(compile(text, path, "exec", dont_inherit=True), vars(module))
    except SystemExit as leaving:
        error = f"SystemExit: {leaving.code}" if leaving.code else ""
    except BaseException as problem:
        error = f"{type(problem).__name__}: {problem}"
    return [error, parameters()]


def _prepare_torch(*, load: bool) -> Any:
    import torch

    from mpaudit.runtime.torch import probe as torch_probe
    from mpaudit.runtime.tracer import Tracer

    if load:
        torch.set_num_threads(1)
        return None
    torch_probe.install(Tracer(Path("run.mpa")), "cpu", lambda _: None)
    if "transformers" in sys.modules:
        _prepare_hub()
    torch.manual_seed(0)
    built: list[Any] = []
    original = torch.optim.Optimizer.__init__

    def init(optimizer: Any, *args: Any, **kwargs: Any) -> None:
        original(optimizer, *args, **kwargs)
        built.append(optimizer)

    torch.optim.Optimizer.__init__ = init  # type: ignore[method-assign]
    for name in _ADAPTIVE:
        setattr(torch.optim, name, _plain(torch.optim.SGD, name))

    def parameters() -> list[list[float]]:
        groups = [group for optimizer in built for group in optimizer.param_groups]
        tensors = [each.detach().double() for group in groups for each in group["params"]]
        return [[each.sum().item(), each.square().sum().item()] for each in tensors]

    return parameters


def _prepare_hub() -> None:
    """Small models, made here, take the place of those that would come from the net."""
    import transformers
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    small = {"vocab_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16}

    def load(
        cls: Any, name: str, *_: Any, dtype: Any = None, torch_dtype: Any = None, **__: Any
    ) -> Any:
        kind = next((each for each in ("bert", "opt") if each in name), "gpt2")
        extra = {"opt": {"ffn_dim": 32, "word_embed_proj_dim": 16}}.get(kind, {})
        model = cls.from_config(transformers.AutoConfig.for_model(kind, **small, **extra))
        return model.to(dtype or torch_dtype or model.dtype)

    _BaseAutoModelClass.from_pretrained = classmethod(load)


def _plain(sgd: Any, name: str) -> Any:
    """An optimizer that is called as Adam is, and does what SGD does."""

    class Plain(sgd):  # type: ignore[misc]
        def __init__(self, params: Any, lr: float = 1e-3, *_: Any, **__: Any) -> None:
            super().__init__(params, lr=lr)

    Plain.__name__ = Plain.__qualname__ = name
    return Plain


def _prepare_keras(*, load: bool) -> Any:
    import keras

    if load:
        with contextlib.suppress(ImportError):
            importlib.import_module("tf_keras")
        return None
    keras.utils.set_random_seed(0)
    built: list[Any] = []
    original = keras.optimizers.Optimizer.__init__

    def init(optimizer: Any, *args: Any, **kwargs: Any) -> None:
        original(optimizer, *args, **kwargs)
        built.append(optimizer)

    def step(optimizer: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate, gradient = (
            keras.ops.cast(each, variable.dtype) for each in (learning_rate, gradient)
        )
        optimizer.assign_sub(variable, keras.ops.multiply(gradient, rate))

    keras.optimizers.Optimizer.__init__ = init
    for optimizer in _adaptive(keras.optimizers):
        optimizer.update_step = step
    trained = _prepare_keras_2(sys.modules["tf_keras"]) if "tf_keras" in sys.modules else []

    def parameters() -> list[list[float]]:
        import numpy

        owners = [each for each in built if not hasattr(each, "inner_optimizer")]
        variables = [each.value for owner in owners for each in owner._trainable_variables]
        variables += trained
        arrays = [numpy.asarray(each, dtype="float64") for each in variables]
        return [[float(each.sum()), float((each**2).sum())] for each in arrays]

    return parameters


def _prepare_keras_2(keras: Any) -> list[Any]:
    """The variables that optimizers of Keras 2 step, in a list that grows."""
    import tensorflow

    trained: list[Any] = []

    def recording(original: Any) -> Any:
        def apply(optimizer: Any, grads_and_vars: Any, *args: Any, **kwargs: Any) -> Any:
            pairs = list(grads_and_vars)
            trained.extend(v for _, v in pairs if all(v is not each for each in trained))
            return original(optimizer, pairs, *args, **kwargs)

        return apply

    def step(optimizer: Any, gradient: Any, variable: Any, *_: Any, **__: Any) -> Any:
        legacy = isinstance(optimizer, keras.optimizers.legacy.Optimizer)
        rate = optimizer._get_hyper("learning_rate") if legacy else optimizer.learning_rate
        dense = tensorflow.convert_to_tensor(gradient)
        return variable.assign_sub(dense * tensorflow.cast(rate, variable.dtype))

    for module in (keras.optimizers, keras.optimizers.legacy):
        module.Optimizer.apply_gradients = recording(module.Optimizer.apply_gradients)
    for optimizer in _adaptive(keras.optimizers):
        optimizer.update_step = step
    for optimizer in _adaptive(keras.optimizers.legacy):
        optimizer._resource_apply_dense = step
    return trained


def _adaptive(optimizers: Any) -> list[Any]:
    names = {name.lower() for name in _ADAPTIVE}
    return [each for name, each in vars(optimizers).items() if name.lower() in names]


if __name__ == "__main__":
    _serve(sys.argv[1])

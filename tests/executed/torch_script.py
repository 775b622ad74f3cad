"""Torch, prepared for a script that is run for its parameters."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from mpaudit.runtime.torch import probe
from mpaudit.runtime.torch.float32 import Float32
from mpaudit.runtime.tracer import Tracer
from tests.executed import Arithmetic
from tests.executed.hub import offline
from tests.executed.optimizer import NAMES, at_one

_BESIDE = (
    "torch._dynamo",  # the first optimizer imports it
    "torch.distributed.fsdp",
    "accelerate",
    "lightning",
    "pytorch_lightning",
    "torchmetrics",
    "transformers.trainer",
    "deepspeed",
)


def load() -> None:
    """Import what scripts import, once, before their processes are forked."""
    offline()
    for name in _BESIDE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


@contextlib.contextmanager
def prepared(arithmetic: Arithmetic) -> Iterator[Callable[[], list[list[float]]]]:
    """CUDA calls on the CPU, seeds, SGD; inside, a script runs."""
    probe.install(Tracer(Path("run.mpa")), "cpu", lambda _: None)
    torch.manual_seed(0)
    built: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    original = torch.optim.Optimizer.add_param_group

    def add(optimizer: Any, group: Any) -> None:
        original(optimizer, group)
        for each in optimizer.param_groups[-1]["params"]:
            built.setdefault(id(each), (each, each.detach().double().clone()))

    torch.optim.Optimizer.add_param_group = add  # type: ignore[method-assign]
    for name in NAMES:
        setattr(torch.optim, name, plain := _plain(torch.optim.SGD, name))
        _shared_by_deepspeed(plain)
    if arithmetic == "plain":
        at_one(torch.amp.GradScaler, "init_scale")
    with Float32() if arithmetic != "as written" else contextlib.nullcontext():
        yield lambda: [_sums(each.detach().double(), start) for each, start in built.values()]


def _sums(value: torch.Tensor, start: torch.Tensor) -> list[float]:
    if value.shape != start.shape:  # sharded or merged since
        start = torch.zeros_like(value)
    pair = (value, value - start)
    return [number for each in pair for number in (each.sum().item(), each.square().sum().item())]


def _shared_by_deepspeed(optimizer: Any) -> None:
    """ZeRO takes Adam and its kind, and what stands for them."""
    zero = sys.modules.get("deepspeed.runtime.zero.utils")
    if zero is not None:
        zero.ZERO_SUPPORTED_OPTIMIZERS.append(optimizer)


def _plain(sgd: Any, name: str) -> Any:
    """An optimizer that is called as Adam is, and does what SGD does."""

    class Plain(sgd):  # type: ignore[misc]
        def __init__(self, params: Any, lr: float = 1e-3, *_: Any, **__: Any) -> None:
            super().__init__(params, lr=lr)

    Plain.__name__ = Plain.__qualname__ = name
    return Plain

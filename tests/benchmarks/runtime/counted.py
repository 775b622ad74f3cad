"""What watching a step costs, counted: operations, bytes that they read, waits for the device.

Counts do not depend on the machine. They are of a step with and one without a watcher; what the
watcher adds is the difference. What a tensor is and how large is counted by hooks of this module.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mpaudit.protocols import machines
from mpaudit.runtime.sampling import Sampling
from mpaudit.runtime.torch import probe as torch_probe
from mpaudit.runtime.tracer import Tracer

from .loop import Loop

Watching = Callable[[Loop], AbstractContextManager[Any]]
"""Makes the context in which a loop is watched by a tool."""
WAITS = "aten::_local_scalar_dense"
"""The operation by which a number of a tensor comes to Python: on a GPU it waits for the device."""
STEPS = 3  # before the step that is counted, in which no histogram is taken and no cast counted


@dataclass(slots=True)
class Counted:
    """One step: operations by phase and name, bytes they read by phase, results for comparison."""

    operations: dict[str, Counter[str]] = field(default_factory=dict)
    read: Counter[str] = field(default_factory=Counter)
    results: tuple[bytes, ...] = ()
    """Losses, parameters and buffers, the state of the random numbers."""

    def total(self) -> Counter[str]:
        """Operations of all phases."""
        return sum(self.operations.values(), Counter())


class _Count(TorchDispatchMode):
    """Counts what runs below autograd; views read nothing."""

    def __init__(self, counted: Counted) -> None:
        super().__init__()
        self._counted = counted
        self.phase = ""

    def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = self._counted.operations.setdefault(self.phase, Counter())
        names[operation._schema.name] += 1
        if not operation.is_view:
            written = {each.name for each in operation._schema.arguments if each.is_out}
            given = [*args, *(v for k, v in (kwargs or {}).items() if k not in written)]
            self._counted.read[self.phase] += sum(map(size, tensors(given)))
        return operation(*args, **(kwargs or {}))


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested lists, tuples and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors(each)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def size(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's elements."""
    return tensor.numel() * tensor.element_size()


def count(loop: Loop, watching: Watching | None = None, *, behind: int = STEPS) -> Counted:
    """Count the step `behind` so many others; `watching` is around all of them."""
    counted = Counted()
    with nullcontext() if watching is None else watching(loop):
        for _ in range(behind):
            loop.step()
        mode = _Count(counted)

        @contextmanager
        def phase(name: str) -> Iterator[None]:
            mode.phase = name
            yield

        with mode, seen_by_modes():
            loop.step(phase)
    states = [torch.random.get_rng_state()]
    if loop.device == "cuda":
        states.append(torch.cuda.get_rng_state())
    results = [*loop.losses, *loop.model.state_dict().values(), *states]
    counted.results = tuple(map(bits, results))
    return counted


def bits(tensor: torch.Tensor) -> bytes:
    """A tensor's bytes."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@contextmanager
def seen_by_modes() -> Iterator[None]:
    """Let dispatch modes see what mpaudit does: it keeps its own operations from the user's modes."""
    hiders = [
        each
        for name, each in sys.modules.items()
        if name.startswith("mpaudit.") and hasattr(each, "_disable_current_modes")
    ]
    before = [each._disable_current_modes for each in hiders]
    for each in hiders:
        each._disable_current_modes = nullcontext
    try:
        yield
    finally:
        for each, function in zip(hiders, before, strict=True):
            each._disable_current_modes = function


@contextmanager
def mpaudit(device: str = "cpu", *, every: int | None = 1, light: bool = False) -> Iterator[Tracer]:
    """mpaudit watches every step, or those that `every` and `light` say, as `mpaudit run` does."""
    with tempfile.TemporaryDirectory() as folder:
        tracer = Tracer(Path(folder) / "run.mpa", machines(), Sampling(every=every, light=light))
        uninstall = torch_probe.install(tracer, device, lambda _: None)
        try:
            yield tracer
            tracer.flush()
        finally:
            uninstall()
            tracer.close(0)
        if errors := tracer.fact("probe_errors"):
            raise RuntimeError(f"a probe failed: {errors}")

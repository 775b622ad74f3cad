"""`same.py SHAPE DEVICE ROUNDS STEPS [OPTION...]`: turns with and without mpaudit in one process.

Two processes that do the same differ by some percent, as their memory lies elsewhere: what adds less
than that shows in one only. A machine that others use is faster in one minute than in the next: so
steps with and without hooks alternate, and a turn is a sum over them. A second turn without hooks says
what is left of such noise. The options are those of `mpaudit run`. Printed is a line for each round:
seconds of a step on the wall and of the processor without hooks, the same with them, the same without
them once more, and the seconds that mpaudit itself says it took.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.nn.modules import module as modules
from torch.optim import optimizer as optimizers

from mpaudit.protocols import machines
from mpaudit.runtime.sampling import FIRST, Sampling
from mpaudit.runtime.torch import patch
from mpaudit.runtime.torch import probe as torch_probe
from mpaudit.runtime.tracer import Tracer
from tests.benchmarks.runtime.loop import Loop, Shape

_ABSENT = object()


class Hooks:
    """All that mpaudit hooks into torch while it is installed; can be taken away for a while."""

    def __init__(self, install: Callable[[], object]) -> None:
        named = vars(modules).items()
        self._hooks = [
            each for name, each in named if name.startswith("_global_") and isinstance(each, dict)
        ]
        self._hooks += [optimizers._global_optimizer_pre_hooks]
        self._hooks += [optimizers._global_optimizer_post_hooks]
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        self._without = [dict(each) for each in self._hooks]
        original = patch.Patches.set

        def noted(patches: patch.Patches, owner: Any, name: str, value: Any) -> None:
            self._replaced.append((owner, name, vars(owner).get(name, _ABSENT), value))
            original(patches, owner, name, value)

        patch.Patches.set = noted  # type: ignore[method-assign]
        try:
            install()
        finally:
            patch.Patches.set = original  # type: ignore[method-assign]

    @contextmanager
    def away(self) -> Iterator[None]:
        """Torch as it was before."""
        with_them = [dict(each) for each in self._hooks]
        self._put(self._without)
        for owner, name, before, _ in reversed(self._replaced):
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
        try:
            yield
        finally:
            self._put(with_them)
            for owner, name, _, after in self._replaced:
                setattr(owner, name, after)

    def _put(self, hooks: list[dict[Any, Any]]) -> None:
        for each, content in zip(self._hooks, hooks, strict=True):
            if each != content:
                each.clear()
                each.update(content)


PLAIN, WATCHED, AGAIN = "plain", "watched", "again"


@dataclass(slots=True)
class Spent:
    """Seconds of some steps, on the wall and of the processor."""

    wall: float = 0.0
    processor: float = 0.0

    def take(self, loop: Loop) -> None:
        """Do a step, and add what it took."""
        wait = torch.cuda.synchronize if loop.device == "cuda" else int
        wait()
        began, used = time.perf_counter(), time.process_time()
        loop.step()
        wait()
        self.wall += time.perf_counter() - began
        self.processor += time.process_time() - used


def turns(loop: Loop, hooks: Hooks, steps: int) -> dict[str, Spent]:
    """So many steps of each kind, one after the other, each kind as often the first."""
    kinds = [PLAIN, WATCHED, AGAIN]
    spent = {kind: Spent() for kind in kinds}
    for number in range(steps):
        first = number % len(kinds)
        for kind in kinds[first:] + kinds[:first]:
            with nullcontext() if kind == WATCHED else hooks.away():
                spent[kind].take(loop)
    return spent


def main() -> None:
    shape, device, rounds, steps, *options = sys.argv[1:]
    every = int(options[options.index("--every") + 1]) if "--every" in options else None
    with TemporaryDirectory() as folder:
        sampling = Sampling(every, light="--light" in options)
        tracer = Tracer(Path(folder) / "run.mpa", machines(), sampling)
        undo: list[Callable[[], None]] = []
        install = torch_probe.install
        hooks = Hooks(lambda: undo.append(install(tracer, device, lambda _: None)))
        loop = Shape(shape).loop(device)
        for _ in range(FIRST):
            loop.step()
        for _ in range(int(rounds)):
            before = tracer.spent
            spent = turns(loop, hooks, int(steps))
            found = [each for one in spent.values() for each in (one.wall, one.processor)]
            print(*(each / int(steps) for each in (*found, tracer.spent - before)), flush=True)
        undo[0]()
        tracer.close(0)
        if errors := tracer.fact("probe_errors"):
            raise RuntimeError(f"a probe failed: {errors}")


if __name__ == "__main__":
    main()

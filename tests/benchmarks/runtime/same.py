"""`same.py SHAPE DEVICE CYCLES WATCHER...`: steps without and with mpaudit, in turn, in one process.

Two processes that do the same differ by some percent, as their memory lies elsewhere: what adds less
than that shows in one only. A machine that others use is faster in one minute than in the next: so
a cycle is one step under each watcher and two without any, in an order that is drawn each time. The
first of those two is what the others are compared with, together with the second, which is also
compared with the first: what they differ by is noise. A WATCHER is "mpaudit" with options of `mpaudit
run`. Printed is a line of JSON for each cycle: by name, seconds on the wall and of the processor, and of
watchers those that writing the trace took, those that mpaudit itself says it took, and what was looked at.

A trace is written each second, a cycle takes several: it is written behind the step, and timed there.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.nn.modules import module as modules
from torch.optim import optimizer as optimizers

from mpaudit.protocols import machines
from mpaudit.runtime import tracer as tracers
from mpaudit.runtime.sampling import Sampling, sampled
from mpaudit.runtime.torch import patch
from mpaudit.runtime.torch import probe as torch_probe
from mpaudit.runtime.torch.watch import Watch
from mpaudit.runtime.tracer import Tracer
from tests.benchmarks.runtime.loop import Loop, Shape

_ABSENT = object()
WARM = 3
"""Cycles before those that count: a layer is made known in the first."""


class Hooks:
    """All that an installation hooks into torch. It is away at first, and can be put there for a while."""

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
        self._with = [dict(each) for each in self._hooks]
        self._remove()

    @contextmanager
    def there(self) -> Iterator[None]:
        """Torch as the installation left it."""
        self.put()
        try:
            yield
        finally:
            self._with = [dict(each) for each in self._hooks]
            self._remove()

    def put(self) -> None:
        """Put all there again."""
        self._fill(self._with)
        for owner, name, _, after in self._replaced:
            setattr(owner, name, after)

    def _remove(self) -> None:
        self._fill(self._without)
        for owner, name, before, _ in reversed(self._replaced):
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

    def _fill(self, hooks: list[dict[Any, Any]]) -> None:
        for each, content in zip(self._hooks, hooks, strict=True):
            if each != content:
                each.clear()
                each.update(content)


class Watcher:
    """An installation of mpaudit, with the options of a command, on a loop that is built already."""

    def __init__(self, command: str, device: str, path: Path) -> None:
        options = command.split()[1:]
        every = int(options[options.index("--every") + 1]) if "--every" in options else None
        self._light = "--light" in options
        self._tracer = Tracer(path, machines(), Sampling(every, light=self._light))
        install = torch_probe.install
        undo: list[Callable[[], None]] = []
        self._hooks = Hooks(
            lambda: undo.append(install(self._tracer, device, lambda _: None, late=True))
        )
        self._undo = undo[0]
        watch = Watch.of(self._tracer)
        assert watch is not None
        self.watch = watch
        self.turns = watch.turns
        self.there = self._hooks.there
        self.flush = self._tracer.flush

    @property
    def step_number(self) -> int:
        """That of the next step under it."""
        return self._tracer.step()

    def step(self, loop: Loop) -> list[Any]:
        """A step, and what is said of it."""
        number, spent = self.step_number, self._tracer.spent
        with self.there():
            times = timed(loop, loop.step)
            said = self._tracer.spent - spent
            written = timed(loop, self.flush)
        looked = "looked at" if self.turns.looked(number) else "between"
        return [
            *times,
            *written,
            said,
            "counted" if sampled(number) and not self._light else looked,
        ]

    def end(self) -> None:
        """Nothing is watched any more. Raises RuntimeError if a probe failed."""
        self._hooks.put()
        self._undo()
        self._tracer.close(0)
        if errors := self._tracer.fact("probe_errors"):
            raise RuntimeError(f"a probe failed: {errors}")


def timed(loop: Loop, work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall and of the processor."""
    wait = torch.cuda.synchronize if loop.device == "cuda" else int
    wait()
    began, used = time.perf_counter(), time.process_time()
    work()
    wait()
    return time.perf_counter() - began, time.process_time() - used


def main() -> None:
    shape, device, cycles, *commands = sys.argv[1:]
    tracers.FLUSH_EVERY = math.inf
    loop, order = Shape(shape).loop(device), random.Random(0)
    loop.step()
    with TemporaryDirectory() as folder:
        watchers = {
            command: Watcher(command, device, Path(folder) / f"{number}.mpa")
            for number, command in enumerate(commands)
        }
        names = ["none", "none again", *watchers]
        for cycle in range(-WARM, int(cycles)):
            found = {}
            for name in order.sample(names, len(names)):
                watcher = watchers.get(name)
                found[name] = watcher.step(loop) if watcher else timed(loop, loop.step)
            if cycle >= 0:
                print(json.dumps(found), flush=True)
        for watcher in watchers.values():
            watcher.end()


if __name__ == "__main__":
    main()

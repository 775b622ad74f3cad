"""`alone.py SHAPE CYCLES`: what `--light` does in a step, timed without the step around it.

It adds less than one step differs from the next, so that no number of steps of a large model shows it.
But between the steps that it looks at it does the same whatever the size of the model: here as many
functions are called more as there, or it is no measurement. So that is timed on a small model, whose
steps differ by little. All that a large model drives out of the processor's caches is driven out there
too, before each part of a step, by other work that is not timed. What is done in a step that is looked
at is one function, which is called by itself on the large model, with its gradients.

Printed are lines of JSON: seconds of a step of the large model; for each cycle those of a small one
without and with `--light`; and those of a look, and of writing down what was seen. All are of the thread
that trains, by the processor's clock: it does what is added alone, and others on the machine change
nothing of it.
"""

from __future__ import annotations

import cProfile
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from mpaudit.runtime import tracer as tracers
from mpaudit.runtime.sampling import FIRST
from mpaudit.runtime.torch.probe import EVERY_LIGHT
from tests.benchmarks.runtime.loop import Loop, Shape
from tests.benchmarks.runtime.same import Watcher

PLAIN = 8  # steps of the large model
LOOKS = 12
SWEPT = 1 << 24  # numbers of 4 bytes: more than caches hold
DIFFERENT = 0.02
"""By so much the functions that are called more may differ in number."""


class Clock:
    """Times the steps of a loop, the moments aside in which it sweeps the processor's caches."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._large = torch.ones(SWEPT)
        self._spent = self._began = 0.0
        loop.model.register_forward_hook(self._sweep)
        next(loop.model.parameters()).register_hook(self._sweep)
        loop.optimizer.register_step_pre_hook(self._sweep)

    def step(self) -> float:
        """Seconds that a step takes."""
        self._spent, self._began = 0.0, time.thread_time()
        self._loop.step(self._phase)
        return self._spent + time.thread_time() - self._began

    def _sweep(self, *_: object) -> None:
        self._spent += time.thread_time() - self._began
        self._large.add_(1.0)
        self._began = time.thread_time()

    @contextmanager
    def _phase(self, _: str) -> Iterator[None]:
        self._sweep()
        yield


def seconds(work: Callable[[], object]) -> float:
    """Those that this thread works."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def functions(loop: Loop, watcher: Watcher) -> int:
    """How many functions a step calls more that is not looked at."""
    found = []
    for around in (nullcontext(), watcher.there()):
        profile = cProfile.Profile()
        with around:
            profile.runcall(loop.step)
        found.append(sum(each.callcount for each in profile.getstats()))
    return found[1] - found[0]


def begun(loop: Loop, watcher: Watcher) -> None:
    """Have so many steps watched that the next one is not looked at."""
    with watcher.there():
        while watcher.step_number < FIRST + 1:
            loop.step()


def look(loop: Loop, watcher: Watcher) -> float:
    """Seconds of a look at the gradients of the last step, and of writing down what was seen."""
    number = EVERY_LIGHT * (1 + watcher.step_number // EVERY_LIGHT)
    with watcher.there():
        return seconds(lambda: watcher.watch.attempted(loop.optimizer, number, True))


def main() -> None:
    shape, cycles = sys.argv[1], int(sys.argv[2])
    tracers.FLUSH_EVERY = math.inf
    with TemporaryDirectory() as folder:
        loop = Shape(shape).loop()
        loop.step()
        watcher = Watcher("mpaudit --light", "cpu", Path(folder) / "large.mpa")
        print(json.dumps({"plain": [seconds(loop.step) for _ in range(PLAIN)]}), flush=True)
        begun(loop, watcher)
        called = functions(loop, watcher)
        looks = [(look(loop, watcher), seconds(watcher.flush)) for _ in range(LOOKS)]
        watcher.end()
        del loop
        torch.set_num_threads(1)
        loop, order = Shape(shape, small=True).loop(), random.Random(0)
        watcher = Watcher("mpaudit --light", "cpu", Path(folder) / "small.mpa")
        begun(loop, watcher)
        if abs(functions(loop, watcher) - called) > DIFFERENT * called:
            raise RuntimeError(f"{called} functions are called more, and others of a small model")
        clock = Clock(loop)
        while cycles:
            found = {}
            for name in order.sample(["none", "light"], 2):
                with nullcontext() if name == "none" else watcher.there():
                    number = watcher.step_number
                    found[name] = clock.step()
            found["written"] = seconds(watcher.flush)
            if not watcher.turns.looked(number):
                print(json.dumps(found), flush=True)
                cycles -= 1
        watcher.end()
    print(json.dumps({"looks": looks, "functions": called}))


if __name__ == "__main__":
    main()

"""Seconds of a step with and without a watcher: processes that train in turns."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO

from mpaudit.runtime.tracer import FLUSH_EVERY

from ..peer import ROOT, clean
from ..timing import Run
from .pair import Pair, mean

WORKER = Path(__file__).with_name("worker.py")
SAME = Path(__file__).with_name("same.py")
ALONE = Path(__file__).with_name("alone.py")
PLAIN = "none"
STEPS = {"gpt2": 1, "resnet": 4}
"""Steps of one turn."""
VISIBLE: Mapping[str, Mapping[str, str]] = {"cpu": {}, "cuda": {"CUDA_VISIBLE_DEVICES": "0"}}
"""What a worker is to see of the machine."""
WARM = 3
"""Turns before those that count: what is done only in the first steps is no cost of a run."""


@dataclass(frozen=True, slots=True)
class Same:
    """Pairs of steps in one process without and with mpaudit, and what it said of its own cost in each.

    `control` are pairs of which both steps are without it: what they differ by is noise.
    """

    pairs: list[Pair]
    control: list[Pair]
    said: list[Pair]


class Worker:
    """A process that trains when it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def steps(self, count: int) -> Run:
        """Do so many steps."""
        wall, processor = map(float, self.asked(str(count)).split())
        return Run(wall / count, processor / count, 0)

    def asked(self, line: str) -> str:
        """What it answers to a line."""
        self._input.write(f"{line}\n")
        self._input.flush()
        return self._answer()

    def ready(self) -> None:
        """Wait until the model is there."""
        while self._answer() != "ready":
            pass

    def end(self) -> int:
        """Let the script come to its end; returns its exit code."""
        self._input.close()
        return self._process.wait()

    @property
    def _input(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker died with code {self._process.wait()}")
        return line.strip()


@contextmanager
def worker(
    arguments: Sequence[str], device: str = "cpu", where: Path | None = None
) -> Iterator[Worker]:
    """A process of Python with these arguments, ready to train."""
    with ExitStack() as stack:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=where,
            env={
                **clean(),
                **VISIBLE[device],
                "PYTHONPATH": str(ROOT),
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        found = Worker(process)
        found.ready()
        yield found


@contextmanager
def workers(shape: str, watchers: Sequence[str], device: str) -> Iterator[dict[str, Worker]]:
    """One process for each watcher; one that has been started is ready before the next is."""
    with ExitStack() as stack:
        yield {
            watcher: stack.enter_context(worker([str(WORKER), shape, watcher, device], device))
            for watcher in watchers
        }


def pair(plain: Worker, watched: Worker, steps: int, number: int) -> Pair:
    """A turn of each; which comes first changes from one `number` to the next."""
    if number % 2:
        after = watched.steps(steps)
        return Pair(plain.steps(steps), after)
    return Pair(plain.steps(steps), watched.steps(steps))


def turns(shape: str, watchers: Sequence[str], device: str, rounds: int) -> dict[str, list[Pair]]:
    """Watcher -> pairs of a turn without and one with it, one right after the other."""
    pairs: dict[str, list[Pair]] = {watcher: [] for watcher in watchers}
    with workers(shape, [PLAIN, *watchers], device) as all_:
        for number in range(-WARM, rounds):
            for watcher in watchers:
                each = pair(all_[PLAIN], all_[watcher], STEPS[shape], number)
                if number >= 0:
                    pairs[watcher].append(each)
        for watcher, worker in all_.items():
            if code := worker.end():
                raise RuntimeError(f"the worker under {watcher} ended with code {code}")
    return pairs


def same(shape: str, commands: Sequence[str], device: str, cycles: int) -> dict[str, Same]:
    """Watcher -> steps in turn with those of the others, in one process."""
    done = subprocess.run(
        [sys.executable, str(SAME), shape, device, str(cycles), *commands],
        env={**clean(), **VISIBLE[device], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"steps in turn failed: {done.stderr}")
    found: dict[str, Same] = {command: Same([], [], []) for command in commands}
    for line in map(json.loads, done.stdout.splitlines()):
        plain, again = (Run(*line[name], 0) for name in ("none", "none again"))
        both = mean(plain, again)
        often = min(1.0, both.wall / FLUSH_EVERY)  # a trace is written that often in a step
        for command, each in found.items():
            wall, processor, *written, said, look = line[command]
            flush = [often * seconds for seconds in written]
            each.pairs.append(Pair(both, Run(wall + flush[0], processor + flush[1], 0), look))
            own = both.wall + said + flush[0]
            each.said.append(Pair(both, Run(own, own, 0), look))
            each.control.append(Pair(plain, again))
    return found


def alone(shape: str, cycles: int) -> tuple[list[Pair], int]:
    """Steps of a large model, and the same with what `--light` does timed by itself; see `alone.py`.

    And how many functions that calls. Both clocks of a pair are the processor's.
    """
    done = subprocess.run(
        [sys.executable, str(ALONE), shape, str(cycles)],
        env={**clean(), **VISIBLE["cpu"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"timing what is added by itself failed: {done.stderr}")
    first, *found, last = map(json.loads, done.stdout.splitlines())
    plain = median(first["plain"])
    often = min(1.0, plain / FLUSH_EVERY)  # a trace is written that often in a step

    def pair(more: float, name: str) -> Pair:
        return Pair(Run(plain, plain, 0), Run(plain + more, plain + more, 0), name)

    between = [each["light"] - each["none"] + often * each["written"] for each in found]
    pairs = [pair(each, "between") for each in between]
    pairs += [pair(median(between) + sum(each), "looked at") for each in last["looks"]]
    return pairs, last["functions"]


def seconds(pairs: Mapping[str, Sequence[Pair]]) -> dict[str, float]:
    """The median seconds of a step, by watcher."""
    plain = [pair.plain.wall for each in pairs.values() for pair in each]
    watched = {name: median(pair.watched.wall for pair in each) for name, each in pairs.items()}
    return {"plain": median(plain), **watched}

"""Seconds of a step with and without a watcher: processes that train in turns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO

from ..peer import ROOT, clean
from ..timing import Run

WORKER = Path(__file__).with_name("worker.py")
SAME = Path(__file__).with_name("same.py")
PLAIN = "none"
STEPS = {"gpt2": 1, "resnet": 4}
"""Steps of one turn."""
VISIBLE: Mapping[str, Mapping[str, str]] = {"cpu": {}, "cuda": {"CUDA_VISIBLE_DEVICES": "0"}}
"""What a worker is to see of the machine."""
WARM = 3
"""Turns before those that count: what is done only in the first steps is no cost of a run."""


@dataclass(frozen=True, slots=True)
class Same:
    """Turns without and with mpaudit in one process, and the seconds of a step that it said it took.

    `control` are turns of which both are without it: what they differ by is noise.
    """

    pairs: list[tuple[Run, Run]]
    control: list[tuple[Run, Run]]
    said: float


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


def turns(
    shape: str, watchers: Sequence[str], device: str, rounds: int
) -> dict[str, list[tuple[Run, Run]]]:
    """Watcher -> pairs of a turn without and one with it, one right after the other."""
    pairs: dict[str, list[tuple[Run, Run]]] = {watcher: [] for watcher in watchers}
    with workers(shape, [PLAIN, *watchers], device) as all_:
        for number in range(-WARM, rounds):
            for watcher in watchers:
                pair = (all_[PLAIN].steps(STEPS[shape]), all_[watcher].steps(STEPS[shape]))
                if number >= 0:
                    pairs[watcher].append(pair)
        for watcher, worker in all_.items():
            if code := worker.end():
                raise RuntimeError(f"the worker under {watcher} ended with code {code}")
    return pairs


def same(shape: str, watcher: str, device: str, rounds: int, steps: int) -> Same:
    """Turns of so many steps without and with mpaudit in one process."""
    options = watcher.split()[1:]
    done = subprocess.run(
        [sys.executable, str(SAME), shape, device, str(rounds), str(steps), *options],
        env={**clean(), **VISIBLE[device], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"turns of {watcher} failed: {done.stderr}")
    lines = [list(map(float, line.split())) for line in done.stdout.splitlines()]
    runs = [[Run(*line[at : at + 2], 0) for at in (0, 2, 4)] for line in lines]
    pairs = [(plain, watched) for plain, watched, _ in runs]
    control = [(plain, again) for plain, _, again in runs]
    return Same(pairs, control, median(line[6] for line in lines))


def added(pairs: Sequence[tuple[Run, Run]]) -> float:
    """The share of a step's time that a watcher adds: the median over the pairs."""
    return median(watched.wall / plain.wall for plain, watched in pairs) - 1


def seconds(pairs: Mapping[str, Sequence[tuple[Run, Run]]]) -> dict[str, float]:
    """The median seconds of a step, by watcher."""
    plain = [pair[0].wall for each in pairs.values() for pair in each]
    watched = {name: median(pair[1].wall for pair in each) for name, each in pairs.items()}
    return {"plain": median(plain), **watched}

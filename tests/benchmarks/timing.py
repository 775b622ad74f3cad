"""Programs, run in turns and measured: wall time, processor time, memory."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .peer import clean

Command = Sequence[str]


@dataclass(frozen=True, slots=True)
class Run:
    """One run: seconds on the wall, seconds of all its processes, MiB of the largest of them."""

    wall: float
    processor: float
    peak: float


class FailedError(Exception):
    """A program ended in a way that says that it did not do its work."""


def run(command: Command, where: Path, accepted: tuple[int, ...] = (0, 1)) -> Run:
    """Run a program in a folder. Raises FailedError unless it ends with an accepted code.

    Memory is that of the largest of the process and the processes that it waited for.
    """
    began = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=where,
        env=clean(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in accepted:
        raise FailedError(f"{Path(command[0]).name} ended with code {process.returncode}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def in_turns(
    commands: Mapping[str, Command], where: Path, rounds: int, *, warm: bool = True
) -> dict[str, list[Run]]:
    """Run programs one after the other, so many times over; `warm` runs each once before that."""
    if warm:
        for command in commands.values():
            run(command, where)
    found: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            found[name].append(run(command, where))
    return found


def ratio(one: Sequence[Run], other: Sequence[Run]) -> float:
    """How many times the wall time of the other, as the median over the turns.

    Where one has had more turns, its median is compared.
    """
    if len(one) == len(other):
        return median(a.wall / b.wall for a, b in zip(one, other, strict=True))
    return seconds(one) / seconds(other)


def seconds(runs: Sequence[Run]) -> float:
    """The median wall time."""
    return median(each.wall for each in runs)

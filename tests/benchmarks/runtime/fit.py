"""Rows about Keras on TensorFlow: what a step takes longer, against TensorFlow's own in the same run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from ..goal import Goal
from ..timing import Run
from . import turn
from .turn import PLAIN, Worker, added, seconds

WORKER = Path(__file__).with_name("fit_worker.py")
OURS, PEER = "mpaudit", "enable_check_numerics"
SHAPES = {"toy": "Keras, MLP of 4 layers", "resnet": "Keras, ResNet-50 at 96 x 96"}
LIMITS = {"toy": 25, "resnet": 5}  # percent of a step
STEPS = {"toy": 300, "resnet": 10}
"""Steps of one turn: of ten steps one is looked at."""
WARM = 2
"""Turns before those that count: graphs are traced in them, and the first ten steps are all looked at."""


def rows(rounds: int) -> Iterator[Goal]:
    """Time, bits and XLA."""
    with tempfile.TemporaryDirectory() as folder:
        for shape in SHAPES:
            yield _time(shape, rounds, Path(folder))
            yield _bits(shape, Path(folder))
        yield _xla(Path(folder))


def _start(stack: ExitStack, shape: str, watcher: str, where: Path) -> Worker:
    """A worker that is ready."""
    before = ["-m", "mpaudit", "run", "-o", f"{shape}.mpa"] if watcher == OURS else []
    script = [str(WORKER), shape, PLAIN if watcher == OURS else watcher]
    return stack.enter_context(turn.worker([*before, *script], where=where))


def _time(shape: str, rounds: int, where: Path) -> Goal:
    """What is added to a step: the median over pairs of turns, one right after the other."""
    pairs: dict[str, list[tuple[Run, Run]]] = {OURS: [], PEER: []}
    with ExitStack() as stack:
        plain = _start(stack, shape, PLAIN, where)
        others = {each: _start(stack, shape, each, where) for each in pairs}
        for number in range(-WARM, rounds):
            for name, worker in others.items():
                pair = (plain.steps(STEPS[shape]), worker.steps(STEPS[shape]))
                if number >= 0:
                    pairs[name].append(pair)
    return Goal(
        f"{SHAPES[shape]}: time added to a step",
        f"{PEER} {100 * added(pairs[PEER]):.0f} %",
        100 * added(pairs[OURS]),
        LIMITS[shape],
        "%",
        rounds=rounds,
        seconds=seconds(pairs),
    )


def _bits(shape: str, where: Path) -> Goal:
    """Whether weights differ after two turns of a step, with TensorFlow's determinism switched on."""
    found = set()
    for watcher in (PLAIN, OURS):
        with ExitStack() as stack:
            worker = _start(stack, f"{shape}-same", watcher, where)
            worker.steps(1)
            worker.steps(1)
            found.add(worker.asked("weights"))
    return Goal(f"{SHAPES[shape]}: sets of weights that differ", "", len(found) - 1, 0, "")


def _xla(where: Path) -> Goal:
    """Whether a training that XLA compiles gets through."""
    failed = {}
    for watcher in (OURS, PEER):
        with ExitStack() as stack:
            worker = _start(stack, "toy-xla", watcher, where)
            try:
                worker.steps(3)
                failed[watcher] = 0
            except RuntimeError:  # it died
                failed[watcher] = 1
    work = f"{SHAPES['toy']}: trainings that XLA compiles and that fail"
    return Goal(work, f"{PEER} {failed[PEER]}", failed[OURS], 0, "")

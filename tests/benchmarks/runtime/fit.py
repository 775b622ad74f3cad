"""Rows about Keras on TensorFlow: what a step takes longer, against TensorFlow's own in the same run."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from ..goal import Goal
from . import turn
from .pair import Pair, added, mean
from .time import timed
from .turn import PLAIN, Worker, seconds

WORKER = Path(__file__).with_name("fit_worker.py")
OURS, AGAIN, PEER = "mpaudit", "none again", "enable_check_numerics"
SHAPES = {"toy": "Keras, MLP of 4 layers", "resnet": "Keras, ResNet-50 at 96 x 96"}
LIMITS = {"toy": 25, "resnet": 5}  # percent of a step
STEPS = {"toy": 400, "resnet": 10}
"""Steps of one turn: of ten steps one is looked at, and a trace is written each second."""
TURNS = {"toy": 6, "resnet": 2}
"""Times as many turns as were asked for."""
WARM = 2
"""Turns before those that count: graphs are traced in them, and the first ten steps are all looked at."""


def rows(shape: str) -> Iterator[Goal]:
    """Bits and XLA."""
    with tempfile.TemporaryDirectory() as folder:
        yield _bits(shape, Path(folder))
        if shape == "toy":
            yield _xla(Path(folder))


def timed_row(shape: str, rounds: int) -> Goal:
    """What is added to a step: turns of processes, in an order that is drawn each time.

    Two of them do without a watcher: what they differ by is noise, that of two processes included, and
    the others are compared with both.
    """
    pairs: dict[str, list[Pair]] = {OURS: [], AGAIN: [], PEER: []}
    order = random.Random(0)
    with ExitStack() as stack:
        where = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        names = [PLAIN, *pairs]
        workers = {each: _start(stack, shape, each, where) for each in names}
        for number in range(-WARM, TURNS[shape] * rounds):
            few = names if number < rounds else names[:-1]  # of the other tool few are enough
            drawn = order.sample(few, len(few))
            found = {each: workers[each].steps(STEPS[shape]) for each in drawn}
            both = mean(found[PLAIN], found[AGAIN])
            for name in few[1:] if number >= 0 else ():
                plain = found[PLAIN] if name == AGAIN else both
                pairs[name].append(Pair(plain, found[name]))
    peer, noise = added(pairs[PEER]), added(pairs[AGAIN])
    ends = f"({100 * noise.low:.1f} to {100 * noise.high:.1f})"
    return timed(
        f"{SHAPES[shape]}: time added to a step",
        f"{PEER} {100 * peer.share:.0f} %; a second process without {100 * noise.share:.1f} % {ends}",
        pairs[OURS],
        LIMITS[shape],
        seconds=seconds(pairs),
    )


def _start(stack: ExitStack, shape: str, watcher: str, where: Path) -> Worker:
    """A worker that is ready."""
    before = ["-m", "mpaudit", "run", "-o", f"{shape}.mpa"] if watcher == OURS else []
    script = [str(WORKER), shape, watcher if watcher == PEER else PLAIN]
    return stack.enter_context(turn.worker([*before, *script], where=where))


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

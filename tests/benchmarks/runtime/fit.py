"""Rows about Keras on TensorFlow: what a step takes longer, against TensorFlow's own in the same run."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from ..goal import Goal
from ..peer import ROOT, clean
from ..timing import Run
from . import turn
from .pair import Pair, added, mean
from .time import shares, timed
from .turn import PLAIN, Worker, pair, seconds

WORKER = Path(__file__).with_name("fit_worker.py")
SAME = Path(__file__).with_name("fit_same.py")
OURS, AGAIN, PEER = "mpaudit", "none again", "enable_check_numerics"
SHAPES = {"toy": "Keras, MLP of 4 layers", "resnet": "Keras, ResNet-50 at 96 x 96"}
LIMITS = {"toy": 25, "resnet": 5}  # percent of a step
STEPS = {"toy": 400, "resnet": 1}
"""Steps of one turn. In many one is looked at in ten, and a trace is written each second."""
TURNS = {"toy": 12, "resnet": 24}
"""Times as many turns as were asked for."""
THEIRS = {"toy": 400, "resnet": 4}
"""Steps of a turn of the other tool."""
WARM = 2
"""Turns of the other tool before those that count: graphs are traced in them."""


def rows(shape: str) -> Iterator[Goal]:
    """Bits and XLA."""
    with tempfile.TemporaryDirectory() as folder:
        yield _bits(shape, Path(folder))
        if shape == "toy":
            yield _xla(Path(folder))


def timed_row(shape: str, rounds: int) -> Goal:
    """What is added to a step: without and with mpaudit in one process, the other tool in two.

    Two models do without a watcher: what they differ by is noise, and ours is compared with both.
    """
    ours, control = _same(shape, TURNS[shape] * rounds)
    pairs = {OURS: ours, AGAIN: control, PEER: _theirs(shape, rounds)}
    peer, noise = added(pairs[PEER]), added(control)
    ends = f"({100 * noise.low:.1f} to {100 * noise.high:.1f})"
    return timed(
        f"{SHAPES[shape]}: time added to a step",
        f"{PEER} {100 * peer.share:.0f} %; a second model without {100 * noise.share:.1f} % {ends}",
        ours,
        LIMITS[shape],
        shares(OURS) if STEPS[shape] == 1 else None,
        seconds=seconds(pairs),
    )


def _same(shape: str, turns: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs of turns without and with mpaudit; and of two without, what was looked at by mpaudit aside."""
    done = subprocess.run(
        [sys.executable, str(SAME), shape, str(turns), str(STEPS[shape])],
        env={**clean(), "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"turns of fit failed: {done.stderr}")
    ours, control = list[Pair](), list[Pair]()
    for line in map(json.loads, done.stdout.splitlines()):
        plain, again = (Run(*line[name], 0) for name in (PLAIN, AGAIN))
        *watched, look = line[OURS]
        ours.append(Pair(mean(plain, again), Run(*watched, 0), look))
        control.append(Pair(plain, again))
    return ours, control


def _theirs(shape: str, rounds: int) -> list[Pair]:
    """Pairs of turns of two processes, one of them with the other tool."""
    found: list[Pair] = []
    with ExitStack() as stack:
        where = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plain, watched = (_start(stack, shape, each, where) for each in (PLAIN, PEER))
        for number in range(-WARM, rounds):
            each = pair(plain, watched, THEIRS[shape], number)
            if number >= 0:
                found.append(each)
    return found


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

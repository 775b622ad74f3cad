"""Rows about seconds: what a step takes longer, against other tools in the same run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from ..goal import Goal
from ..timing import Run
from .loop import SHAPES
from .turn import Same, added, same, seconds, turns

DEFAULT, EVERYTHING, LIGHT = "mpaudit", "mpaudit --every 1", "mpaudit --light"
HUGGING_FACE = "DebugUnderflowOverflow"
PEERS = (HUGGING_FACE, "detect_anomaly", "DebugMode")
LIMITS = {  # percent of a step: on a CPU, on a GPU
    DEFAULT: (6, 3),
    EVERYTHING: (15, 10),
    LIGHT: (0.5, 0.5),
}
TURNS = {DEFAULT: 10, EVERYTHING: 2, LIGHT: 10}
"""Steps of a turn: of ten steps one is looked at, unless all are; with --light, of the first hundred, those
that are powers of two, and later one in a hundred."""
Pairs = Mapping[str, Sequence[tuple[Run, Run]]]


def rows(shape: str, device: str, rounds: int) -> tuple[list[Goal], dict[str, dict[str, float]]]:
    """What is timed of one shape; and what mpaudit says of its own cost, by watcher.

    mpaudit is compared with itself switched off in the same process, the others in two processes:
    what they add is far more than what two processes differ by.
    """
    ours = {each: same(shape, each, device, rounds, steps) for each, steps in TURNS.items()}
    pairs = turns(shape, PEERS, device, rounds)
    pairs.update({watcher: each.pairs for watcher, each in ours.items()})
    return list(_goals(shape, device, pairs)), {name: said(each) for name, each in ours.items()}


def _goals(shape: str, device: str, pairs: Pairs) -> Iterator[Goal]:
    times = seconds(pairs)
    theirs = ", ".join(f"{peer} {100 * added(pairs[peer]):.0f} %" for peer in PEERS)
    for watcher, limits in LIMITS.items():
        yield Goal(
            f"{SHAPES[shape]}: time added to a step, {watcher}",
            theirs,
            100 * added(pairs[watcher]),
            limits[device == "cuda"],
            "%",
            rounds=len(pairs[watcher]),
            seconds=times,
        )
    for watcher in (DEFAULT, EVERYTHING):
        yield Goal(
            f"{SHAPES[shape]}: time added, of what {HUGGING_FACE} adds, {watcher}",
            HUGGING_FACE,
            added(pairs[watcher]) / added(pairs[HUGGING_FACE]),
            0.1,
            "x",
            rounds=len(pairs[watcher]),
            seconds=times,
        )


def said(ours: Same) -> dict[str, float]:
    """The seconds of a step that mpaudit calls its overhead, beside those that a step took longer.

    `noise` is the share that a step seemed to take longer where nothing was added.
    """
    longer = median(watched.wall - plain.wall for plain, watched in ours.pairs)
    noise = round(added(ours.control), 4)
    return {"said": round(ours.said, 5), "measured": round(longer, 5), "noise": noise}


def truth(found: Mapping[str, Mapping[str, float]]) -> str:
    """What mpaudit says of its cost beside what was measured, in a line."""
    each = (
        f"{watcher} says {1e3 * one['said']:.1f} ms a step, {1e3 * one['measured']:.1f} measured, "
        f"and nothing added measures as {100 * one['noise']:.1f} %"
        for watcher, one in found.items()
    )
    return "; ".join(each)


def on_a_gpu() -> Iterator[Goal]:
    """The rows that a machine without one cannot fill."""
    for name in SHAPES.values():
        for watcher, (_, limit) in LIMITS.items():
            yield _not_measured(f"{name}: time added to a step, {watcher}, on a GPU", limit, "%")
        yield _not_measured(f"{name}: operations for each tensor looked at, on a GPU", 1, "")


def _not_measured(work: str, limit: float, unit: str) -> Goal:
    return Goal(work, "", None, limit, unit, note="not measured: no CUDA device")

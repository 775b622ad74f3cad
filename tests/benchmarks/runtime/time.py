"""Rows about seconds: what a step takes longer, against other tools in the same run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from mpaudit.runtime.trace import Reader

from ..goal import Goal
from ..timing import Run
from .loop import SHAPES
from .turn import PLAIN, added, seconds, turns

DEFAULT, EVERYTHING, LIGHT = "mpaudit", "mpaudit --every 1", "mpaudit --light"
HUGGING_FACE = "DebugUnderflowOverflow"
PEERS = (HUGGING_FACE, "detect_anomaly", "DebugMode")
LIMITS = {  # percent of a step: on a CPU, on a GPU
    DEFAULT: (6, 3),
    EVERYTHING: (15, 10),
    LIGHT: (0.5, 0.5),
}
Pairs = Mapping[str, Sequence[tuple[Run, Run]]]


def rows(
    shape: str, device: str, where: Path, rounds: int
) -> tuple[list[Goal], dict[str, dict[str, float]]]:
    """What is timed of one shape; and what the traces say of their own cost, by watcher."""
    ours = [DEFAULT, EVERYTHING, LIGHT] if device == "cuda" else [EVERYTHING, LIGHT]
    pairs = turns(shape, [*ours, *PEERS], device, where, rounds)
    if device == "cpu":  # there the default is every step
        pairs[DEFAULT] = pairs[EVERYTHING]
    return list(_goals(shape, device, pairs)), said(shape, ours, where, pairs)


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
    yield Goal(
        f"{SHAPES[shape]}: time added, of what {HUGGING_FACE} adds",
        HUGGING_FACE,
        added(pairs[EVERYTHING]) / added(pairs[HUGGING_FACE]),
        0.1,
        "x",
        rounds=len(pairs[EVERYTHING]),
        seconds=times,
    )


def said(shape: str, ours: Sequence[str], where: Path, pairs: Pairs) -> dict[str, dict[str, float]]:
    """The share of the run that each trace calls its overhead, beside what was measured here.

    The trace's share is of the whole process, with imports and waits, so seconds are compared: its
    own, for each step, and those that a step took longer.
    """
    found = {}
    for number, watcher in enumerate([PLAIN, *ours]):
        if watcher == PLAIN:
            continue
        with Reader(where / f"{shape}-{number}.mpa") as run:
            steps = max((each.last + 1 for each in run.attempts()), default=1)
            own = (run.meta["overhead"] or {}).get("seconds", 0.0) / steps
        longer = median(watched.wall - plain.wall for plain, watched in pairs[watcher])
        found[watcher] = {"said": round(own, 5), "measured": round(longer, 5)}
    return found


def truth(found: Mapping[str, Mapping[str, float]]) -> str:
    """What traces say of their cost beside what was measured, in a line."""
    each = (
        f"{watcher} says {1e3 * one['said']:.1f} ms a step, {1e3 * one['measured']:.1f} measured"
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

"""Rows about seconds: what a step takes longer, against other tools in the same run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from mpaudit.runtime.sampling import COUNTED, EVERY, Turns, sampled
from mpaudit.runtime.torch.probe import EVERY_LIGHT

from ..goal import Goal
from .loop import SHAPES
from .pair import CLOCKS, Added, Pair, added
from .turn import Same, alone, same, seconds, turns

DEFAULT, EVERYTHING, LIGHT = "mpaudit", "mpaudit --every 1", "mpaudit --light"
HUGGING_FACE = "DebugUnderflowOverflow"
PEERS = (HUGGING_FACE, "detect_anomaly", "DebugMode")
LIMITS = {  # percent of a step: on a CPU, on a GPU
    DEFAULT: (6, 3),
    EVERYTHING: (15, 10),
    LIGHT: (0.5, 0.5),
}
LOOKS = {DEFAULT: EVERY, EVERYTHING: 1, LIGHT: EVERY_LIGHT}
"""Every so many steps all is looked at."""
ALONE = 200
"""Cycles of what is timed by itself."""
CYCLES = {"gpt2": 1, "resnet": 3}
"""Times as many cycles as were asked for: those of small steps are short."""


def shares(watcher: str) -> dict[str, float]:
    """What share of the steps of a long run a watcher looks at, by how it does."""
    turns, steps = Turns(LOOKS[watcher]), range(10 * COUNTED, 20 * COUNTED)
    found = Counter("looked at" if turns.due(step) else "between" for step in steps)
    if watcher != LIGHT:
        found["counted"] = sum(map(sampled, steps))
        found["looked at"] -= found["counted"]
    return {look: count / len(steps) for look, count in found.items()}


def rows(
    shape: str, device: str, cycles: int, rounds: int
) -> tuple[list[Goal], dict[str, dict[str, float]]]:
    """What is timed of one shape; and what mpaudit says of its own cost, by watcher.

    mpaudit is compared with itself switched off in the same process, the others in two processes:
    what they add is far more than what two processes differ by.
    """
    ours = same(shape, list(LOOKS), device, CYCLES[shape] * cycles)
    pairs: dict[str, Sequence[Pair]] = {name: each.pairs for name, each in ours.items()}
    pairs.update(turns(shape, PEERS, device, rounds))
    found = {name: said(name, each) for name, each in ours.items()}
    return list(_goals(shape, device, pairs)), found


def by_itself(shape: str, cycles: int = ALONE) -> Goal:
    """A row about what `--light` does, which is less than one step differs from the next."""
    pairs, functions = alone(shape, cycles)
    limit, _ = LIMITS[LIGHT]
    return timed(
        f"{SHAPES[shape]}: time added to a step, {LIGHT}, by itself",
        f"the processor time of {functions} function calls, of that of a step",
        pairs,
        limit,
        shares(LIGHT),
        seconds={"plain": pairs[0].plain.wall},
    )


def timed(
    work: str,
    against: str,
    pairs: Sequence[Pair],
    limit: float,
    looks: Mapping[str, float] | None = None,
    **more: Any,
) -> Goal:
    """A row about the time that is added to a step, in percent; `looks` as the shares of `added`."""
    wall, processor = (_percent(added(pairs, clock, looks)) for clock in CLOCKS)
    figure, *ends = wall
    sure = {"interval": tuple(ends), "processor": processor}
    return Goal(work, against, figure, limit, "%", rounds=len(pairs), **sure, **more)


def _percent(found: Added) -> tuple[float, float, float]:
    return 100 * found.share, 100 * found.low, 100 * found.high


def _goals(shape: str, device: str, pairs: Mapping[str, Sequence[Pair]]) -> Iterator[Goal]:
    times = seconds(pairs)
    theirs = {peer: added(pairs[peer]).share for peer in PEERS}
    against = ", ".join(f"{peer} {100 * share:.0f} %" for peer, share in theirs.items())
    for watcher, limits in LIMITS.items():
        work = f"{SHAPES[shape]}: time added to a step, {watcher}"
        limit = limits[device == "cuda"]
        yield timed(work, against, pairs[watcher], limit, shares(watcher), seconds=times)
    for watcher in (DEFAULT, EVERYTHING):
        found, much = added(pairs[watcher], shares=shares(watcher)), theirs[HUGGING_FACE]
        yield Goal(
            f"{SHAPES[shape]}: time added, of what {HUGGING_FACE} adds, {watcher}",
            HUGGING_FACE,
            found.share / much,
            0.1,
            "x",
            rounds=len(pairs[watcher]),
            seconds=times,
            interval=(found.low / much, found.high / much),
        )


def said(watcher: str, ours: Same) -> dict[str, float]:
    """The seconds of a step that mpaudit calls its overhead, beside those that a step took longer.

    `noise` is the share that a step seemed to take longer where nothing was added, and its interval.
    """
    plain = median(pair.plain.wall for pair in ours.pairs)
    looks, noise = shares(watcher), added(ours.control)
    return {
        "said": round(added(ours.said, shares=looks).share * plain, 5),
        "measured": round(added(ours.pairs, shares=looks).share * plain, 5),
        **{f"noise {name}": round(getattr(noise, name), 4) for name in ("share", "low", "high")},
    }


def truth(found: Mapping[str, Mapping[str, float]]) -> str:
    """What mpaudit says of its cost beside what was measured, in a line."""
    each = (
        f"{watcher} says {1e3 * one['said']:.1f} ms a step, {1e3 * one['measured']:.1f} measured"
        for watcher, one in found.items()
    )
    noise = next(iter(found.values()))
    share, low, high = (100 * noise[f"noise {name}"] for name in ("share", "low", "high"))
    nothing = f"nothing added measures as {share:.1f} % ({low:.1f} to {high:.1f})"
    return "; ".join([*each, nothing])


def on_a_gpu() -> Iterator[Goal]:
    """The rows that a machine without one cannot fill."""
    for name in SHAPES.values():
        for watcher, (_, limit) in LIMITS.items():
            yield _not_measured(f"{name}: time added to a step, {watcher}, on a GPU", limit, "%")
        yield _not_measured(f"{name}: operations for each tensor looked at, on a GPU", 1, "")


def _not_measured(work: str, limit: float, unit: str) -> Goal:
    return Goal(work, "", None, limit, unit, note="not measured: no CUDA device")

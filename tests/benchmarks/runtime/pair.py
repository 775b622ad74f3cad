"""Pairs of a step without a watcher and one with it: what it adds, and how sure that is."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Literal

from ..timing import Run

Clock = Literal["wall", "processor"]
CLOCKS: tuple[Clock, ...] = ("wall", "processor")
DRAWS = 1000


@dataclass(frozen=True, slots=True)
class Pair:
    """One step, or a turn of some, without a watcher and with it, close together in time.

    `look` is what the watcher did in it, where that is not the same in each: steps of which it does much
    are rare, and a median over all would not see them.
    """

    plain: Run
    watched: Run
    look: str = ""


def mean(one: Run, other: Run) -> Run:
    """What two runs took that did the same."""
    return Run((one.wall + other.wall) / 2, (one.processor + other.processor) / 2, 0)


@dataclass(frozen=True, slots=True)
class Added:
    """The share of a step that a watcher adds; the true one lies between the ends 19 times in 20."""

    share: float
    low: float
    high: float


def added(
    pairs: Sequence[Pair], clock: Clock = "wall", shares: Mapping[str, float] | None = None
) -> Added:
    """The median of the ratios; that of each look by its share of all steps (None: there is one only).

    The ends are those of the same from pairs that are drawn again, with replacement.
    """
    ratios: dict[str, list[float]] = {}
    for pair in pairs:
        ratio = getattr(pair.watched, clock) / getattr(pair.plain, clock)
        ratios.setdefault(pair.look, []).append(ratio)
    weights = {"": 1.0} if shares is None else shares

    def whole(drawn: Mapping[str, Sequence[float]]) -> float:
        return sum(weight * median(drawn[look]) for look, weight in weights.items()) - 1

    chance = random.Random(0)
    again = [
        whole({look: chance.choices(each, k=len(each)) for look, each in ratios.items()})
        for _ in range(DRAWS)
    ]
    ends = quantiles(again, n=40)  # of 2.5 % each
    return Added(whole(ratios), ends[0], ends[-1])

"""The goals of speed, and the figures beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table.

    `figure` is None where it could not be measured, with the reason in `note`; it is to be at most
    `limit`, or at least where `least`. `seconds` are the median wall times behind it, by program. Of a
    figure that is timed in pairs the true one lies within `interval` 19 times in 20; `processor` is the
    same by the processor's clock: the figure, and the ends of the interval.
    """

    work: str
    against: str
    figure: float | None
    limit: float
    unit: str = "x"
    least: bool = False
    note: str = ""
    rounds: int = 1
    seconds: dict[str, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    processor: tuple[float, float, float] | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where nothing was measured."""
        if self.figure is None:
            return None
        return self.figure >= self.limit if self.least else self.figure <= self.limit

    @property
    def nothing(self) -> bool:
        """Whether the figure is not told from none: the interval has 0 in it."""
        return self.interval is not None and self.interval[0] <= 0 <= self.interval[1]

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "work": self.work,
            "against": self.against,
            "figure": None if self.figure is None else round(self.figure, 3),
            "goal": f"{'>=' if self.least else '<='} {self.limit:g} {self.unit}",
            "met": self.met,
            "note": self.note,
            "rounds": self.rounds,
            "seconds": {name: round(each, 3) for name, each in self.seconds.items()},
            **self._sure(),
        }

    def _sure(self) -> dict[str, Any]:
        """How sure the figure is, where that is known."""
        if self.interval is None:
            return {}
        found: dict[str, Any] = {"interval": _rounded(self.interval), "includes 0": self.nothing}
        if self.processor is not None:
            figure, *ends = _rounded(self.processor)
            found["by the processor's clock"] = {"figure": figure, "interval": ends}
        return found


def _rounded(figures: Sequence[float]) -> list[float]:
    return [round(each, 3) for each in figures]


def table(goals: Sequence[Goal]) -> str:
    """The goals in columns, for a terminal."""
    rows = [("work", "against", "figure", "goal", "")]
    for goal in goals:
        plain = goal.plain()
        figure = goal.note or "not measured"
        if goal.figure is not None:
            digits = 0 if goal.figure >= 100 else 2
            figure = f"{goal.figure:.{digits}f} {goal.unit}"
            if goal.interval is not None:
                ends = " to ".join(f"{each:.{digits}f}" for each in goal.interval)
                figure += f" ({ends}{', none seen' if goal.nothing else ''})"
        word = {True: "met", False: "NOT MET", None: "?"}[goal.met]
        rows.append((goal.work, goal.against, figure, plain["goal"], word))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)

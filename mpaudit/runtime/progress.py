"""How a training goes: means of its losses, and how long a step takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mpaudit.runtime.tracer import Tracer

_KEPT = 128  # means that are kept


class Losses:
    """The values of a loss in order, as means of equally many; not finite ones are only counted.

    `applied` is that fact of the run, if it has one: then the last mean is kept as it was when there
    were as many losses as the run had that this one is compared with.
    """

    def __init__(self, applied: Mapping[str, Any] | None = None) -> None:
        before = (applied or {}).get("before") or {}
        self._end = before.get("losses")
        self._then: float | None = None
        self._means: list[float] = []
        self._width = 1
        self._filled = 0
        self._last = 0.0
        self._seen = 0
        self._nonfinite = 0

    def add(self, value: float) -> None:
        """Another one."""
        self._seen += 1
        self._last = value
        if not math.isfinite(value):
            self._nonfinite += 1
        else:
            if self._filled in (0, self._width):
                self._begin()
            self._filled += 1
            self._means[-1] += (value - self._means[-1]) / self._filled
        if self._seen == self._end:
            self._end_if_due()

    def join(self, value: float) -> None:
        """A part of the last one: a loss may be gone back from in parts, which add up."""
        if not self._seen:
            return self.add(value)
        before, self._last = self._last, self._last + value
        if math.isfinite(self._last):
            self._means[-1] += value / self._filled
            self._end_if_due()
        elif math.isfinite(before):
            self._nonfinite += 1
            self._take_back(before)
        return None

    def _end_if_due(self) -> None:
        if self._seen == self._end and self._means:
            self._then = self._means[-1]

    def _take_back(self, value: float) -> None:
        """Leave the last one, which had this value, out of its mean."""
        self._filled -= 1
        if self._filled:
            self._means[-1] -= (value - self._means[-1]) / self._filled
        else:
            self._means.pop()
            self._filled = self._width if self._means else 0

    def _begin(self) -> None:
        """The next one begins another mean."""
        if len(self._means) == _KEPT:
            pairs = zip(self._means[::2], self._means[1::2], strict=True)
            self._means = [(a + b) / 2 for a, b in pairs]
            self._width *= 2
        self._means.append(0.0)
        self._filled = 0

    @property
    def fact(self) -> dict[str, Any] | None:
        """The fact `losses`, None without any."""
        if not self._seen:
            return None
        return {
            "steps_each": self._width,
            "means": self._means,
            "nonfinite": self._nonfinite,
            "seen": self._seen,
            "then": self._then,
        }


class Progress:
    """Notes the facts `losses` and `seconds_per_step` of a run that is read from time to time."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._losses = Losses(tracer.fact("applied"))
        self._began: tuple[int, float] | None = None

    @property
    def waits(self) -> bool:
        """Whether no step is over yet."""
        return self._began is None

    def began(self, step: int, now: float) -> None:
        """So many steps are over at a time in seconds: what comes after them is timed."""
        if step:
            self._began = step, now

    def add(self, loss: float) -> None:
        """The loss of the next step."""
        self._losses.add(loss)

    def tell(self, step: int, now: float) -> None:
        """Tell the tracer how it stands when so many steps are over."""
        if (fact := self._losses.fact) is not None:
            self._tracer.note("losses", fact)
        if self._began is not None and step > self._began[0]:
            steps, seconds = step - self._began[0], now - self._began[1]
            self._tracer.note("seconds_per_step", round(seconds / steps, 6))

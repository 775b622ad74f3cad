"""Gradients that float16 makes zero: how many, and how much of what should have arrived (MP903).

What is counted is the rounding itself, so the loss scale in force is in it, and a number that was
zero before is not. A large share of tiny numbers is common and harmless (the tail of a softmax),
so the share of the sum of magnitudes decides; and so are numbers that are nothing to an optimizer,
behind weights that were zero at the start, which a low loss scale alone cannot be blamed for.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator

from msgspec import Struct, field

from mpaudit.finding import Moment, Position, Problem, Span
from mpaudit.runtime.record import Layer

SMALLEST = 2.0**-25  # what float16 rounds to zero, at most
LOST = 0.1  # share of the sum of magnitudes from which a step is bad
ENOUGH = 5  # sampled steps without which nothing is said
NOTHING = 1e-11  # a gradient that moves no weight: far below Adam's epsilon, 1e-8
_LAST = 16  # sampled steps that make up how it is now


class Rounded(Struct, frozen=True):
    """Gradients that were rounded to float16: counts, and sums of magnitudes before that.

    `flushed` of the `nonzero` ones became zero; they make up `lost` of `total`.
    """

    flushed: int = 0
    nonzero: int = 0
    lost: float = 0.0
    total: float = 0.0

    def __add__(self, other: Rounded) -> Rounded:
        return Rounded(
            self.flushed + other.flushed,
            self.nonzero + other.nonzero,
            self.lost + other.lost,
            self.total + other.total,
        )

    @property
    def bad(self) -> bool:
        """Whether enough of it is lost to count."""
        return self.total > 0 and self.lost >= LOST * self.total


class _Course(Struct):
    """The sampled steps of one layer: the one that is going on, and all before it."""

    step: int
    now: Rounded = Rounded()
    first_bad: int | None = None
    steps: int = 0
    bad: int = 0
    flushed: float = 0.0  # sums of the shares of each step
    lost: float = 0.0
    last: deque[bool] = field(default_factory=lambda: deque(maxlen=_LAST))

    def close(self, scale: float | None) -> None:
        """The step, with the scale that was in force in it, is over."""
        bad = self.now.bad and SMALLEST / (scale or 1.0) > NOTHING
        if self.now.nonzero and math.isfinite(self.now.total):  # else it overflowed: no calibration
            self.steps += 1
            self.bad += bad
            self.last.append(bad)
            self.flushed += self.now.flushed / self.now.nonzero
            self.lost += self.now.lost / self.now.total
            if bad and self.first_bad is None:
                self.first_bad = self.step
        self.now = Rounded()

    @property
    def lasting(self) -> bool:
        """Whether most steps are bad, and most of the last ones too: neither start nor end of it."""
        mostly = 2 * self.bad >= self.steps and 2 * sum(self.last) >= len(self.last)
        return self.steps >= ENOUGH and mostly


class Underflow:
    """Collects what is rounded, and says at any time where too much of it is lost."""

    def __init__(self, layer: Callable[[str], Layer], scale: Callable[[], float | None]) -> None:
        self._layer = layer
        self._scale = scale
        self._courses: dict[tuple[str, str], _Course] = {}

    def add(self, path: str, what: str, step: int, rounded: Rounded) -> None:
        """Gradients of `what` of a layer were rounded in a step: "parameter", "activation" for what
        goes into it, "output" for what leaves it."""
        course = self._courses.setdefault((path, what), _Course(step))
        if course.step != step:
            course.close(self._scale())
            course.step = step
        course.now += rounded

    def problems(self) -> Iterator[Problem]:
        """One finding for each place in the source: the layer that loses most."""
        places: dict[tuple[str, int], list[tuple[str, str, _Course]]] = {}
        for (path, what), course in self._courses.items():
            if course.lasting:
                layer = self._layer(path)
                place = layer.filename or "<unknown>", layer.row or 1
                places.setdefault(place, []).append((path, what, course))
        for (filename, row), found in places.items():
            path, what, course = max(found, key=lambda each: each[2].lost / each[2].steps)
            others = len({each[0] for each in found}) - 1
            at = Position(row, 1)
            yield Problem(
                rule="gradient-underflow",
                span=Span(filename, at, at),
                message=_message(path, what, course, others),
                consequence=self._consequence(course),
                moment=Moment(course.first_bad or 0, path, self._layer(path).type),
            )

    def _consequence(self, course: _Course) -> str:
        scale = self._scale()
        at = "without loss scaling" if scale is None else f"at a loss scale of {scale:.6g}"
        return (
            f"what is zero trains nothing: {course.bad} of {course.steps} sampled steps "
            f"lose {LOST:.0%} or more of the sum, {at}"
        )


def _message(path: str, what: str, course: _Course, others: int) -> str:
    whose = {"parameter": "parameters", "output": "outputs"}.get(what, "inputs")
    layer = f"layer {path!r}" if path else "the model"
    more = (
        f"; {others} more layers lose" if others > 1 else "; one more layer loses" if others else ""
    )
    flushed, lost = course.flushed / course.steps, course.lost / course.steps
    return (
        f"float16 makes {flushed:.1%} of the gradients of the {whose} of {layer} zero, "
        f"{lost:.1%} of their sum{more}"
    )

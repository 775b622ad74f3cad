"""The geometry of the charts on a page: pixels in, pixels out, nothing is drawn here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from mpaudit.runtime.record import Attempts
from mpaudit.runtime.summary import Steps

WIDTH, HEIGHT = 1140, 200
LEFT, RIGHT, TOP, BOTTOM = 64, 32, 14, 34  # margins around the plot, for the labels
STRIP = 240  # width of an optimizer's strip
BLUR = 3  # pixels within which what happened apart is drawn as one
TICKS = 8  # at most, along an axis
OCTAVES = 4  # at least, from the bottom to the top


class Tick(Struct, frozen=True):
    """A labelled place on an axis."""

    at: float
    label: str


class Stretch(Struct, frozen=True):
    """Attempts `first` to `last` that are drawn as one; `count` of them are meant."""

    x: float
    width: float
    first: int
    last: int
    count: int

    @property
    def share(self) -> float:
        """How many of the attempts are meant, above 0 to 1."""
        return self.count / (self.last - self.first + 1)


class Timeline(Struct, frozen=True):
    """The loss scale over the attempts to step: an SVG path, the axes, the skipped attempts."""

    path: str
    across: Sequence[Tick]
    up: Sequence[Tick]
    skipped: Sequence[Stretch]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def timeline(steps: Steps) -> Timeline | None:
    """The chart of an optimizer's loss scale, logarithmic upwards; None if there is none to draw.

    Scales that have no place on it (zero, infinite) leave a gap.
    """
    scales = [each.scale for each in steps.attempts if _drawable(each.scale)]
    if not scales:
        return None
    total = steps.total
    low, high = _octaves([math.log2(scale) for scale in scales if scale])

    def across(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / total

    def up(scale: float) -> float:
        share = (math.log2(scale) - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    return Timeline(
        path=_path(steps.attempts, across, up),
        across=[Tick(across(step), str(step)) for step in _whole(total)],
        up=[Tick(up(2.0**exponent), power(exponent)) for exponent in _exponents(low, high)],
        skipped=_merged((each for each in steps.attempts if each.applied is False), across),
    )


def strip(steps: Steps) -> list[Stretch]:
    """The skipped attempts of an optimizer along a strip STRIP pixels wide."""
    total = max(steps.total, 1)
    skipped = (each for each in steps.attempts if each.applied is False)
    return _merged(skipped, lambda step: STRIP * step / total)


def power(exponent: int) -> str:
    """2 to the `exponent`, as people write it."""
    return "2" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _drawable(scale: float | None) -> bool:
    return scale is not None and math.isfinite(scale) and scale > 0


def _octaves(heights: Sequence[float]) -> tuple[int, int]:
    """Whole powers of two below and above all, with room."""
    low, high = math.floor(min(heights)) - 1, math.ceil(max(heights)) + 1
    missing = max(OCTAVES - (high - low), 0)
    return low - missing // 2, high + missing - missing // 2


def _exponents(low: int, high: int) -> range:
    return range(low, high + 1, math.ceil((high - low + 1) / TICKS))


def _whole(total: int) -> range:
    """Round numbers from 0 to `total`, TICKS at most."""
    magnitude = 1
    while True:
        for step in (magnitude, 2 * magnitude, 5 * magnitude):
            if total / step < TICKS:
                return range(0, total + 1, step)
        magnitude *= 10


def _path(
    attempts: Iterable[Attempts], across: Callable[[float], float], up: Callable[[float], float]
) -> str:
    """A staircase; what changes within one pixel is drawn as the range of the changes."""
    pen = _Pen()
    for each in attempts:
        if each.scale is None or not _drawable(each.scale):
            pen.lift()
        else:
            pen.draw(across(each.first), across(each.last + 1), up(each.scale))
    pen.lift()
    return "".join(pen.moves)


class _Pen:
    """Draws one level after the other; at most four moves within one pixel column."""

    def __init__(self) -> None:
        self.moves: list[str] = []
        self._down = False
        self._y = ""
        self._column = -1
        self._met: list[float] = []  # the levels within the column

    def draw(self, start: float, end: float, level: float) -> None:
        if not self._down:
            self._y = f"{level:.1f}"
            self.moves.append(f"M{start:.1f} {self._y}")
            self._down, self._column = True, int(start)
        self._met.append(level)
        if int(end) > self._column:
            self._settle()
            self.moves.append(f"H{end:.1f}")
            self._column = int(end)

    def lift(self) -> None:
        self._settle()
        self._down = False

    def _settle(self) -> None:
        """Go through the levels that were met, and stay at the last."""
        if self._met:
            for level in (min(self._met), max(self._met), self._met[-1]):
                y = f"{level:.1f}"
                if y != self._y:
                    self.moves.append(f"V{y}")
                    self._y = y
        self._met.clear()


def _merged(attempts: Iterable[Attempts], across: Callable[[float], float]) -> list[Stretch]:
    """Where the attempts lie: neighbours as one, and those that are too close to be told apart."""
    stretches: list[Stretch] = []
    for each in attempts:
        first, count = each.first, each.last - each.first + 1
        start, end = across(first), across(each.last + 1)
        if stretches:
            last = stretches[-1]
            solid = last.share == 1 and first == last.last + 1
            if solid or end - last.x <= BLUR:
                stretches.pop()
                start, first, count = last.x, last.first, last.count + count
        stretches.append(Stretch(start, end - start, first, each.last, count))
    return stretches

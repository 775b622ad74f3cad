"""How the largest magnitudes of a layer's outputs move towards the end of float16 (MP907)."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from statistics import median

from msgspec import Struct, field

from mpaudit.finding import Moment, Position, Problem, Span
from mpaudit.runtime.record import LARGEST, Layer, Peaks

TOP = LARGEST["float16"]
NEAR = 3.0  # bits of headroom from which it matters
ENOUGH = 20  # steps that must be looked at before there is a trend
_FASTER = 1.1  # a rise is speeding up if a quarter brings that much more than the one before
_KEPT = 128  # stretches of steps that are kept apart for one layer


class _Course(Struct):
    """The largest magnitude in each of equally long stretches of training steps.

    `looked` of the steps from `first` to `last` were looked at; a stretch without one is 0. What comes
    are numbers of float16 or float32, so that an array of float32 holds them as they are.
    """

    first: int = 0
    last: int = -1
    looked: int = 0
    width: int = 1
    peaks: array[float] = field(default_factory=lambda: array("f"))
    over: bool = False
    written: int = 0  # steps when it was last handed out

    @property
    def steps(self) -> int:
        """How many there are from the first to the last."""
        return self.last - self.first + 1

    def add(self, step: int, amax: float) -> None:
        """Another output; the steps come in order."""
        if not self.peaks:
            self.first, self.last = step, step - 1
        if step > self.last:
            self.last, self.looked = step, self.looked + 1
        while (at := (self.last - self.first) // self.width) >= _KEPT:
            self.peaks, self.width = _halved(self.peaks), self.width * 2
        self.peaks.extend([0.0] * (at + 1 - len(self.peaks)))
        self.peaks[at] = max(self.peaks[at], amax)

    def row(self, path: str) -> Peaks:
        """The row of a trace: its stretches are so long that each has a step that was looked at."""
        peaks, width = self.peaks, self.width
        while not all(peaks):
            peaks, width = _halved(peaks), width * 2
        return Peaks(path, self.steps, width, tuple(peaks))


def _halved(peaks: array[float]) -> array[float]:
    """Two neighbours as one."""
    return array("f", map(max, zip_longest(peaks[::2], peaks[1::2], fillvalue=0.0)))


class Trend(Struct, frozen=True):
    """A range that rises: the largest magnitude now, and the steps until 65504 at this rate."""

    now: float
    before: float
    left: float

    @property
    def bits(self) -> float:
        """How often `now` can double."""
        return math.log2(TOP / self.now)


def trend(peaks: Sequence[float], width: int = 1) -> Trend | None:
    """The rise of `peaks`, the largest magnitudes in stretches of `width` steps, if it is one.

    0 is a stretch in which none was looked at. Compared are the medians of the last three quarters, so
    that a single peak is none, each at the median of where its numbers are. A rise that grows from
    quarter to quarter is taken to go on by the same factor, any other one by as much.
    """
    quarter, points = len(peaks) // 4, []
    for end in range(len(peaks) - 2 * quarter, len(peaks) + 1, max(quarter, 1)):
        there = [place for place in range(end - quarter, end) if peaks[place]]
        if not there:
            return None
        points.append((median(there), median(peaks[place] for place in there)))
    (one, early), (two, middle), (three, late) = points
    now = max(peaks[-quarter:])
    if not early < middle < late or now >= TOP:
        return None
    rate_before, rate = (middle - early) / (two - one), (late - middle) / (three - two)
    left = (TOP - now) / rate
    if rate > _FASTER * rate_before:
        left = math.log(TOP / now) / math.log(late / middle) * (three - two)
    return Trend(now, max(peaks[:quarter]), left * width)


class Headroom:
    """Collects the outputs in float16 of training steps, and says which are about to overflow."""

    def __init__(self, layer: Callable[[str], Layer]) -> None:
        self._layer = layer
        self._courses: dict[str, _Course] = {}

    def add(self, path: str, step: int, amax: float | None, *, finite: bool) -> None:
        """An output of a layer: its largest finite magnitude, and whether all of it is finite."""
        course = self._courses.setdefault(path, _Course())
        course.over |= not finite  # then that is the finding
        if amax:
            course.add(step, amax)

    def forget(self) -> None:
        """Begin anew."""
        self._courses.clear()

    def courses(self, *, last: bool = False) -> Iterator[Peaks]:
        """The courses that are a tenth longer than when they were handed out; at `last`, all."""
        for path, course in self._courses.items():
            if course.peaks and course.steps > course.written * (1.0 if last else 1.1):
                course.written = course.steps
                yield course.row(path)

    def problems(self) -> Iterator[Problem]:
        """One finding for each place in the source: the layer that is nearest to the end."""
        places: dict[tuple[str, int], list[tuple[float, str, Trend, _Course]]] = {}
        for path, course in self._courses.items():
            if course.over or course.looked < ENOUGH or max(course.peaks) * 2**NEAR < TOP:
                continue
            found = trend(course.peaks, course.width)
            if found is not None and found.bits <= NEAR and found.left <= course.steps:
                layer = self._layer(path)
                place = layer.filename or "<unknown>", layer.row or 1
                places.setdefault(place, []).append((found.bits, path, found, course))
        for (filename, row), known in places.items():
            _, path, found, course = min(known, key=lambda each: each[0])
            at, layer = Position(row, 1), self._layer(path)
            name = f"layer {path!r}" if path else "the model"
            yield Problem(
                rule="low-headroom",
                span=Span(filename, at, at),
                message=(
                    f"the output of {name} is at {found.now:.5g} and rises: "
                    f"{found.bits:.1f} bits below the end of float16, 65504"
                ),
                consequence=(
                    f"it was at {found.before:.5g} in the first quarter of {course.steps} steps, "
                    f"and overflows in about {_round(found.left)} more at this rate"
                ),
                moment=Moment(course.last, path, layer.type),
            )


def _round(number: float) -> int:
    """A forecast in two digits."""
    digits = max(int(math.log10(max(number, 1))) - 1, 0)
    return int(round(number, -digits))

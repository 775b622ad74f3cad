"""How the largest magnitudes of a layer's outputs move towards the end of float16 (MP907)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from mpaudit.finding import Moment, Position, Problem, Span
from mpaudit.runtime.record import LARGEST, Layer, Peaks

TOP = LARGEST["float16"]
NEAR = 3.0  # bits of headroom from which it matters
ENOUGH = 20  # steps without which there is no trend
_FASTER = 1.1  # a rise is speeding up if a quarter brings that much more than the one before
_KEPT = 128  # stretches of steps that are kept apart for one layer


@dataclass(slots=True)
class _Course:
    """The largest magnitude in each of equally long stretches of steps."""

    step: int = -1
    steps: int = 0
    width: int = 1
    peaks: list[float] = field(default_factory=list)
    filled: int = 1  # steps in the last stretch
    over: bool = False
    written: int = 0  # steps when it was last handed out

    def add(self, step: int, amax: float) -> None:
        """Another output; the steps come in order."""
        if step != self.step:
            self.step, self.steps = step, self.steps + 1
            if self.filled == self.width:
                self._begin(amax)
            else:
                self.filled += 1
        self.peaks[-1] = max(self.peaks[-1], amax)

    def _begin(self, amax: float) -> None:
        if len(self.peaks) == _KEPT:
            self.peaks = [max(pair) for pair in zip(self.peaks[::2], self.peaks[1::2], strict=True)]
            self.width *= 2
        self.peaks.append(amax)
        self.filled = 1


@dataclass(frozen=True, slots=True)
class Trend:
    """A range that rises: the largest magnitude now, and the steps until 65504 at this rate."""

    now: float
    before: float
    left: float

    @property
    def bits(self) -> float:
        """How often `now` can double."""
        return math.log2(TOP / self.now)


def trend(peaks: Sequence[float], steps: int) -> Trend | None:
    """The rise of `peaks`, the largest magnitudes over the time of `steps` steps, if it is one.

    Compared are the medians of the last three quarters, so that a single peak is none. A rise that
    grows from quarter to quarter is taken to go on by the same factor, any other one by as much.
    """
    quarter = len(peaks) // 4
    if steps < ENOUGH or not quarter:
        return None
    early, middle, late = (median(peaks[len(peaks) - n * quarter :][:quarter]) for n in (3, 2, 1))
    now = max(peaks[-quarter:])
    if not 0 < early < middle < late or now >= TOP:
        return None
    quarters = (TOP - now) / (late - middle)
    if late - middle > _FASTER * (middle - early):
        quarters = math.log(TOP / now) / math.log(late / middle)
    return Trend(now, max(peaks[:quarter]), quarters * steps / 4)


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

    def courses(self, *, last: bool = False) -> Iterator[Peaks]:
        """The courses that are a tenth longer than when they were handed out; at `last`, all."""
        for path, course in self._courses.items():
            if course.peaks and course.steps > course.written * (1.0 if last else 1.1):
                course.written = course.steps
                yield Peaks(path, course.steps, course.width, tuple(course.peaks))

    def problems(self) -> Iterator[Problem]:
        """One finding for each place in the source: the layer that is nearest to the end."""
        places: dict[tuple[str, int], list[tuple[float, str, Trend, _Course]]] = {}
        for path, course in self._courses.items():
            found = None if course.over else trend(course.peaks, course.steps)
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
                moment=Moment(course.step, path, layer.type),
            )


def _round(number: float) -> int:
    """A forecast in two digits."""
    digits = max(int(math.log10(max(number, 1))) - 1, 0)
    return int(round(number, -digits))

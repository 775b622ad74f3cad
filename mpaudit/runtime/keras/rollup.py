"""What taps, counts and rings hold, handed to the tracer and judged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from msgspec import Struct, field
from msgspec.structs import replace

from mpaudit.runtime.headroom import Headroom
from mpaudit.runtime.histogram import SCALED, Histogram, What, exponent
from mpaudit.runtime.keras import input_range
from mpaudit.runtime.keras.bad_loss import judge_losses
from mpaudit.runtime.keras.octaves import Counted
from mpaudit.runtime.keras.origin import Bad, Interval, culprits, judge
from mpaudit.runtime.keras.register import COUNTED, Passage, Register, Watched
from mpaudit.runtime.keras.rounding import Lost
from mpaudit.runtime.keras.steps import Steps
from mpaudit.runtime.keras.taps import Numbers, Tap
from mpaudit.runtime.octaves import read
from mpaudit.runtime.record import LARGEST, Phase, Statistics
from mpaudit.runtime.sampling import due, sampled
from mpaudit.runtime.tracer import Tracer
from mpaudit.runtime.underflow import Underflow

_PHASES: dict[Passage, Phase] = {
    "forward": "forward",
    "evaluated": "forward",
    "backward": "backward",
}


class _Found(Struct):
    """What one interval brought, by layer path."""

    bad: dict[Passage, dict[str, Bad]] = field(
        default_factory=lambda: {passage: {} for passage in get_args(Passage)}
    )
    largest: dict[str, float] = field(default_factory=dict)
    sources: dict[str, set[str]] = field(default_factory=dict)
    lost: list[tuple[Lost, str]] = field(default_factory=list)

    def add(self, passage: Passage, path: str, numbers: Numbers, dtype: str) -> None:
        """What a tap measured."""
        if passage in ("forward", "evaluated"):
            passage = "forward"
            self.largest[path] = max(self.largest.get(path, 0.0), numbers.amax or 0.0)
        first, last = numbers.first_bad, numbers.last_bad
        if first is not None and last is not None:
            counts = numbers.inf, numbers.nan
            bad = Bad(first, last, *counts, dtype, numbers.bad, numbers.replicas)
            self.bad[passage][path] = bad.joined(self.bad[passage].get(path))


class Rollup:
    """Reads what the device holds of all layers; gradients are judged once their attempt is over.

    All of them are looked at in each `every`-th attempt, among others.
    """

    def __init__(self, tracer: Tracer, register: Register, every: int) -> None:
        self._tracer = tracer
        self._every = every
        self._register = register
        self._waiting: dict[Passage, dict[str, Bad]] = {}
        self._phases = dict(_PHASES)
        if tracer.sampling.light:
            self._phases["weights"] = "update"
        self._headroom = Headroom(tracer.known)
        tracer.judging.append(self._headroom.problems)
        self._in_force: float | None = None  # the loss scale of what was last told to:
        self._underflow = Underflow(tracer.known, lambda: self._in_force)
        tracer.judging.append(self._underflow.problems)

    def close(self) -> None:
        """Nothing comes any more."""
        for course in self._headroom.courses(last=True):
            self._tracer.peaks(course)

    def drain(self, steps: Steps, ticks: range) -> None:
        """Hand over what came; the attempts of `ticks` ended since the last time."""
        found = _Found()
        layers = self._register.drain()
        over = steps.over or any(map(sampled, ticks)) or any(gone for _, gone in layers)
        for watched, gone in layers:
            last = gone or steps.over
            calls = others = 0
            found.sources[watched.path] = watched.sources
            for (passage, dtype), tap in watched.taps.items():
                if tap.peaks is not None:
                    for tick, amax in tap.peaks.read(ticks):
                        self._headroom.add(watched.path, steps.step(tick), amax, finite=True)
                if over and tap.octaves is not None:
                    counted = tap.octaves.read(ticks.stop, last=last)
                    place = watched.path, COUNTED[passage], dtype
                    self._histograms(place, counted, steps, unscaled=False)
                numbers = tap.read()
                if numbers is None:
                    continue
                calls, others = calls + numbers.calls, others + numbers.others
                found.add(passage, watched.path, numbers, dtype)
                self._tell(watched, passage, dtype, tap, numbers, steps)
            for (what, dtype, unscaled), octaves in watched.octaves.items() if over else ():
                counted = octaves.read(ticks.stop, last=last)
                self._histograms((watched.path, what, dtype), counted, steps, unscaled=unscaled)
            if over and watched.rounding is not None:
                rounded = watched.rounding.read(ticks.stop, last=last)
                found.lost += [(each, watched.path) for each in rounded]
            per_step = watched.counted(calls, len(ticks))
            if calls or others:
                self._tracer.counted(watched.path, calls + others, per_step)
        for course in self._headroom.courses():
            self._tracer.peaks(course)
        for lost, path in sorted(found.lost, key=lambda each: each[0].tick):
            self._lost(lost, path, steps)
        backward = self._decided("backward", found.bad["backward"], steps)
        weights = self._decided("weights", found.bad["weights"], steps)
        tables = (found.bad["forward"], backward, weights, found.bad["entered"], found.sources)
        seen = Interval(*tables, found.largest, steps.step, steps.applied, steps.begun)
        judge(self._tracer, seen)
        looked = (each for each in steps.bad_losses() if due(each.tick, self._every))
        if not self._tracer.sampling.light:
            judge_losses(self._tracer, looked, seen)
        skipped = dict(steps.skipped(ticks))
        for tick, culprit in culprits(self._tracer, seen, skipped):
            if culprit:
                self._tracer.culprits(skipped[tick], steps.step(tick), culprit)

    def _lost(self, lost: Lost, path: str, steps: Steps) -> None:
        """Hand over what the casts of one tick made zero of a layer's gradients."""
        self._underflow.add(path, "output", steps.step(lost.tick), lost.rounded)
        self._in_force = steps.scale(lost.tick)
        counts = lost.rounded.flushed, lost.elements
        flushed = Statistics(path, "backward", "float16", flushed=counts[0], flushed_of=counts[1])
        self._tracer.measured(flushed)

    def _tell(
        self,
        watched: Watched,
        passage: Passage,
        dtype: str,
        tap: Tap,
        numbers: Numbers,
        steps: Steps,
    ) -> None:
        phase = self._phases.get(passage)
        if numbers.tensors and phase is not None:
            self._tracer.measured(_statistics(watched.path, phase, dtype, numbers, steps))
        if tap.peaks is not None and numbers.first_bad is not None:
            step = steps.step(numbers.first_bad)
            self._headroom.add(watched.path, step, None, finite=False)
        largest_given = numbers.amax or 0.0
        beyond = passage == "uncast" and largest_given > LARGEST["float16"]
        if beyond and watched.cast_at is not None:
            told = watched.cast_at, watched.path, watched.kind, largest_given
            self._tracer.problem(input_range.beyond(*told))

    def _histograms(
        self, place: tuple[str, What, str], read: Iterable[Counted], steps: Steps, *, unscaled: bool
    ) -> None:
        """Hand over the counts of attempts that are over: the loss scale of those is known."""
        for counted in read:
            power = exponent(steps.scale(counted.tick)) if place[1] in SCALED else 0
            found = _histogram(*place, counted).shifted(power if unscaled else 0)
            self._tracer.histogram(replace(found, scale=2.0**power))

    def _decided(self, what: Passage, found: dict[str, Bad], steps: Steps) -> dict[str, Bad]:
        """The bad gradients whose attempt has ended; the others wait for it."""
        waited = self._waiting.pop(what, {})
        both = {path: bad.joined(waited.get(path)) for path, bad in found.items()}
        both = {**waited, **both}
        if steps.over:
            return both
        ended = {path: bad for path, bad in both.items() if steps.ended(bad.last)}
        self._waiting[what] = {path: bad for path, bad in both.items() if path not in ended}
        return ended


def _histogram(path: str, what: What, dtype: str, counted: Counted) -> Histogram:
    first, inside, zeros, inf, nan = read(counted.counts)
    return Histogram(
        path,
        what,
        dtype,
        tensors=counted.tensors,
        elements=counted.elements,
        zeros=zeros,
        inf=inf,
        nan=nan,
        first=first,
        counts=inside,
    )


def _statistics(path: str, phase: Phase, dtype: str, numbers: Numbers, steps: Steps) -> Statistics:
    first, last = numbers.first_bad, numbers.last_bad
    return Statistics(
        path,
        phase,
        dtype,
        calls=numbers.tensors,
        elements=numbers.elements,
        inf=numbers.inf,
        nan=numbers.nan,
        first_bad_step=None if first is None else steps.step(first),
        last_bad_step=None if last is None else steps.step(last),
        amax=numbers.amax,
        zeros=numbers.zeros,
        zeros_of=numbers.zeros_of,
    )

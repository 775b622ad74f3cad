"""The picture of the numbers of a run by power of two, over what float16 holds: its geometry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from mpaudit.render.chart import Tick, power
from mpaudit.runtime.histogram import FLOAT16, FORMATS, KINDS, Histogram, What
from mpaudit.runtime.summary import RunReport

WIDTH, HEIGHT = 560, 216
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 34, 22  # margins around the plot; the zeros are in the left one
ZERO = 20  # width of the bar of the zeros
LOWEST, HIGHEST = -48, 20  # exponents that are drawn; what lies beyond is in the last one
_TICKS = 8  # octaves between two
TITLES: Mapping[What, str] = {
    "activation": "Activations",
    "gradient": "Gradients of activations",
    "weight": "Weights",
    "weight_gradient": "Gradients of weights",
}


class Bar(Struct, frozen=True):
    """So large a share of the numbers (0 to 1) from 2**exponent up to twice that."""

    exponent: int
    share: float
    x: float
    y: float
    width: float
    height: float


class Band(Struct, frozen=True):
    """A part of float16's range: "zero", "subnormal", "normal" or "over"."""

    kind: str
    x: float
    width: float


class Held(Struct, frozen=True):
    """What formats make of all numbers of a kind: by name, shares of overflow, subnormal, zero."""

    form: str
    unscaled: bool
    shares: tuple[float, float, float]


class Picture(Struct, frozen=True):
    """All numbers of one kind: bars as they were in the run, `before` without the loss scale.

    `zeros`, `inf` and `nan` are shares of all sampled numbers; `scales` the least and the largest
    loss scale in them.
    """

    what: What
    title: str
    bars: Sequence[Bar]
    before: str
    zero: Bar
    zeros: float
    inf: float
    nan: float
    scales: tuple[float, float] | None
    bands: Sequence[Band]
    ticks: Sequence[Tick]
    held: Sequence[Held]
    width: int = WIDTH
    height: int = HEIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM
    left: int = LEFT
    right: int = WIDTH - RIGHT


def pictures(report: RunReport) -> list[Picture]:
    """One for each kind of numbers that was counted; tensors weigh by their size."""
    every = [each for flow in report.layers for each in flow.histograms]
    drawn = (_picture(what, [each for each in every if each.what == what]) for what in KINDS)
    return [each for each in drawn if each is not None]


def _picture(what: What, found: Sequence[Histogram]) -> Picture | None:
    whole = sum(each.elements for each in found)
    if not whole or not any(each.sampled for each in found):
        return None
    bins, before = _bins(found), _bins(each.unscaled for each in found)
    scaled = sorted({each.scale for each in found} - {1.0})
    span = _clip(min([*bins, *before, FLOAT16.tiny - 2])), HIGHEST
    across = _Across(*span)
    tallest = max([*_clipped(bins).values(), *_clipped(before).values()], default=1.0)
    bars = [_bar(across, n, share, tallest) for n, share in sorted(_clipped(bins).items())]
    zeros, inf, nan = (
        sum(each.elements * getattr(each, name) / each.sampled for each in found) / whole
        for name in ("zeros", "inf", "nan")
    )
    room = HEIGHT - TOP - BOTTOM
    tall = room * min(zeros / tallest, 1.0)
    return Picture(
        what,
        TITLES[what],
        bars,
        _outline(across, _clipped(before), tallest) if scaled else "",
        Bar(0, zeros, (LEFT - 10 - ZERO), TOP + room - tall, ZERO, tall),
        zeros,
        inf,
        nan,
        (scaled[0], scaled[-1]) if scaled else None,
        list(_bands(across)),
        [Tick(across(n), power(n)) for n in range(span[0], span[1] + 1) if not n % _TICKS],
        [*_held(bins, unscaled=False), *(_held(before, unscaled=True) if scaled else ())],
    )


class _Across(Struct, frozen=True):
    """Exponents to pixels."""

    low: int
    high: int

    def __call__(self, exponent: float) -> float:
        share = (exponent - self.low) / (self.high + 1 - self.low)
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(share, 0.0), 1.0)


def _bins(found: Iterable[Histogram]) -> dict[int, float]:
    """Shares of all numbers, by exponent; a sample stands for its whole tensor."""
    counted = [each for each in found if each.sampled]
    whole = sum(each.elements for each in counted)
    bins: dict[int, float] = {}
    for each in counted:
        weight = each.elements / each.sampled / whole
        for exponent, count in each.bins.items():
            bins[exponent] = bins.get(exponent, 0.0) + weight * count
    return bins


def _clip(exponent: int) -> int:
    return min(max(exponent, LOWEST), HIGHEST)


def _clipped(bins: Mapping[int, float]) -> dict[int, float]:
    drawn: dict[int, float] = {}
    for exponent, share in bins.items():
        drawn[_clip(exponent)] = drawn.get(_clip(exponent), 0.0) + share
    return drawn


def _bar(across: _Across, exponent: int, share: float, tallest: float) -> Bar:
    room = HEIGHT - TOP - BOTTOM
    tall = room * share / tallest
    start, end = across(exponent), across(exponent + 1)
    return Bar(exponent, share, start, TOP + room - tall, end - start - 0.8, tall)


def _outline(across: _Across, bins: Mapping[int, float], tallest: float) -> str:
    """The upper edge of the bars, as a staircase from the ground to the ground."""
    if not bins:
        return ""
    ground, room = HEIGHT - BOTTOM, HEIGHT - TOP - BOTTOM
    moves = [f"M{across(min(bins)):.1f} {ground}"]
    for exponent in range(min(bins), max(bins) + 1):
        level = ground - room * bins.get(exponent, 0.0) / tallest
        moves.append(f"V{level:.1f}H{across(exponent + 1):.1f}")
    return "".join([*moves, f"V{ground}"])


def _bands(across: _Across) -> Iterable[Band]:
    edges = (across.low, FLOAT16.tiny - 1, FLOAT16.normal, FLOAT16.top + 1, across.high + 1)
    kinds = ("zero", "subnormal", "normal", "over")
    for kind, start, end in zip(kinds, edges, edges[1:], strict=False):
        yield Band(kind, across(start), across(end) - across(start))


def _held(bins: Mapping[int, float], *, unscaled: bool) -> Iterable[Held]:
    whole = sum(bins.values())
    for form in FORMATS:
        parts = [0.0, 0.0, 0.0]
        for exponent, share in bins.items():
            if (place := form.place(exponent)) != "normal":
                parts[("over", "subnormal", "zero").index(place)] += share / whole
        yield Held(form.name, unscaled, (parts[0], parts[1], parts[2]))

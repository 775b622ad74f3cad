"""Numbers counted by power of two, and what of them each floating format could hold.

The classic picture of mixed precision (Micikevicius et al. 2018, figure 3): how many numbers lie
in which octave, how many are zero, and where float16 begins and ends. To multiply by a loss scale
is to shift the picture, so that one histogram answers for every scale and for every format.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

What = Literal["activation", "gradient", "weight", "weight_gradient"]

KINDS: tuple[What, ...] = ("activation", "gradient", "weight", "weight_gradient")

SCALED: frozenset[What] = frozenset({"gradient", "weight_gradient"})
"""What a loss scale is in."""


class Format(Struct, frozen=True):
    """A floating format: exponents of its smallest subnormal, smallest normal and largest number.

    In round to nearest even, what is not above half the smallest subnormal becomes zero. The last
    octave counts as held: E4M3 ends within it, at 448, and E5M2 at 57344, but casts saturate there.
    """

    name: str
    tiny: int
    normal: int
    top: int

    def place(self, exponent: int) -> Literal["over", "normal", "subnormal", "zero"]:
        """What becomes of a number from 2**exponent up to twice that."""
        if exponent > self.top:
            return "over"
        if exponent >= self.normal:
            return "normal"
        return "subnormal" if exponent >= self.tiny - 1 else "zero"


FORMATS = (
    Format("float16", -24, -14, 15),
    Format("bfloat16", -133, -126, 127),
    Format("float8_e4m3fn", -9, -6, 8),
    Format("float8_e5m2", -16, -14, 15),
)
"""IEEE 754 binary16, bfloat16, and the two of "OCP 8-bit Floating Point Specification" 1.0."""

FLOAT16 = FORMATS[0]


class Shares(Struct, frozen=True):
    """Of the finite numbers that are not zero: the shares (0 to 1) that a format does badly by.

    `overflow` is too large for it, `flushed` becomes zero, `subnormal` keeps fewer digits.
    """

    overflow: float
    subnormal: float
    flushed: float

    @property
    def all(self) -> float:
        """The three together."""
        return self.overflow + self.subnormal + self.flushed


class Histogram(Struct, frozen=True):
    """Numbers of one kind, layer, dtype and loss scale, counted by the power of two below them.

    `counts[n]` numbers have a magnitude from 2**(first + n) up to, not including, twice that;
    `zeros`, `inf` and `nan` are apart. `tensors` were looked at, which have `elements` numbers; of
    each of them a sample was counted. Gradients are counted as the backward pass made them: with
    the loss scale in them, of which `scale` is the nearest power of two (1 without one, and for
    activations and weights).
    """

    layer: str
    what: What
    dtype: str
    scale: float = 1.0
    tensors: int = 0
    elements: int = 0
    zeros: int = 0
    inf: int = 0
    nan: int = 0
    first: int = 0
    counts: tuple[int, ...] = ()

    @property
    def bins(self) -> dict[int, int]:
        """Exponent to count, where there is any."""
        return {self.first + n: count for n, count in enumerate(self.counts) if count}

    @property
    def nonzero(self) -> int:
        """How many are finite and not zero."""
        return sum(self.counts)

    @property
    def sampled(self) -> int:
        """How many were counted, of whatever kind."""
        return self.nonzero + self.zeros + self.inf + self.nan

    def joined(self, other: Histogram) -> Histogram:
        """Both together, under the name of this one."""
        first = min((each.first for each in (self, other) if each.counts), default=0)
        counts = [0] * max(each.first + len(each.counts) - first for each in (self, other))
        for each in (self, other):
            for place, count in enumerate(each.counts, each.first - first):
                counts[place] += count
        return replace(
            self,
            tensors=self.tensors + other.tensors,
            elements=self.elements + other.elements,
            zeros=self.zeros + other.zeros,
            inf=self.inf + other.inf,
            nan=self.nan + other.nan,
            first=first,
            counts=tuple(counts),
        )

    def shifted(self, octaves: int) -> Histogram:
        """The same numbers times 2**octaves."""
        return replace(self, first=self.first + octaves)

    @property
    def unscaled(self) -> Histogram:
        """The same numbers without the loss scale."""
        return replace(self.shifted(-exponent(self.scale)), scale=1.0)

    def shares(self, form: Format) -> Shares | None:
        """What a cast to `form` would do to these numbers; None without any."""
        whole = self.nonzero
        if not whole:
            return None
        found = Counter[str]()
        for power, count in self.bins.items():
            found[form.place(power)] += count
        return Shares(*(found[place] / whole for place in ("over", "subnormal", "zero")))


def total(histograms: Iterable[Histogram]) -> Histogram | None:
    """All together, as they are, under the name of the first; None of none."""
    found = list(histograms)
    if not found:
        return None
    whole = found[0]
    for each in found[1:]:
        whole = whole.joined(each)
    return whole


def exponent(scale: float | None) -> int:
    """The power of two that is nearest to a loss scale; 0 without one."""
    return round(math.log2(scale)) if scale and math.isfinite(scale) and scale > 0 else 0

"""The rows of a trace: plain values that probes hand over, the file keeps and reports read."""

from __future__ import annotations

import math
from itertools import zip_longest
from operator import add
from statistics import median
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from mpaudit.runtime.histogram import Histogram

Phase = Literal["forward", "backward", "update"]
CastOf = Literal["activation", "parameter", "gradient"]
Flow = Literal["input", "output", "parameter", "buffer", "parameter_grad", "output_grad"]

LARGEST = {
    "float16": 65504.0,
    "bfloat16": 3.3895313892515355e38,
    "float32": 3.4028234663852886e38,
    "float64": 1.7976931348623157e308,
    "float8_e4m3fn": 448.0,
    "float8_e5m2": 57344.0,
}
"""The largest finite value of each floating dtype, by plain name (IEEE 754; OCP 8-bit floats)."""

LOW_PRECISION = frozenset(LARGEST) - {"float32", "float64"}


class Layer(Struct, frozen=True):
    """A layer of the model, by its path in the whole model; `position` is the order of first calls.

    `calls` counts every forward call, `calls_per_step` is the commonest number of training calls
    before one attempt to step (0: never called in training). `filename` and `row` are the place in
    the user's code from which it was called first.
    """

    path: str
    type: str
    position: int
    calls: int = 0
    calls_per_step: int = 0
    filename: str | None = None
    row: int | None = None

    def joined(self, other: Layer) -> Layer:
        """The same layer in two processes: a step has as many calls as in the first."""
        return replace(self, calls=self.calls + other.calls)


class Statistics(Struct, frozen=True):
    """Values of one dtype that left a layer (forward) or came back as gradients (backward).

    Those of phase "update" are the gradients of a layer's parameters as its optimizer got them.

    `amax` is the largest finite magnitude, None if nothing was finite; `inf` and `nan` count
    elements. `flushed` counts gradient elements that the cast to this dtype made zero,
    `flushed_weight` the same for gradients of parameters, each next to the number of elements
    looked at; None where it was not measured. `zeros` of `zeros_of` elements were zero, in a sample.
    """

    layer: str
    phase: Phase
    dtype: str
    calls: int = 0
    elements: int = 0
    inf: int = 0
    nan: int = 0
    first_bad_step: int | None = None
    last_bad_step: int | None = None
    amax: float | None = None
    flushed: int | None = None
    flushed_of: int | None = None
    flushed_weight: int | None = None
    flushed_weight_of: int | None = None
    zeros: int | None = None
    zeros_of: int | None = None

    def joined(self, other: Statistics) -> Statistics:
        """Both together; `other` comes later."""
        return Statistics(
            self.layer,
            self.phase,
            self.dtype,
            self.calls + other.calls,
            self.elements + other.elements,
            self.inf + other.inf,
            self.nan + other.nan,
            _both(min, self.first_bad_step, other.first_bad_step),
            _both(max, self.last_bad_step, other.last_bad_step),
            _both(max, self.amax, other.amax),
            _both(add, self.flushed, other.flushed),
            _both(add, self.flushed_of, other.flushed_of),
            _both(add, self.flushed_weight, other.flushed_weight),
            _both(add, self.flushed_weight_of, other.flushed_weight_of),
            _both(add, self.zeros, other.zeros),
            _both(add, self.zeros_of, other.zeros_of),
        )


class Peaks(Struct, frozen=True):
    """The largest magnitudes of a layer's outputs in float16, over the course of the training.

    Each of `peaks` is the largest of `width` neighbouring training steps, the last one of no more;
    there are `steps` from the first to the last in which the layer was looked at.
    """

    layer: str
    steps: int
    width: int
    peaks: tuple[float, ...]

    def joined(self, other: Peaks) -> Peaks:
        """The same layer in two processes that train together: the larger of both."""
        one, two = (self, other) if self.width >= other.width else (other, self)
        times = one.width // two.width
        narrow = [max(two.peaks[at : at + times]) for at in range(0, len(two.peaks), times)]
        peaks = tuple(max(pair) for pair in zip_longest(one.peaks, narrow, fillvalue=0.0))
        return replace(one, steps=max(one.steps, two.steps), peaks=peaks)

    @property
    def bits(self) -> list[float]:
        """Of each, the doublings until float16 overflows."""
        return [math.log2(LARGEST["float16"] / each) for each in self.peaks]

    @property
    def trend(self) -> float | None:
        """Bits of headroom gained from the first to the last quarter; None of too few steps."""
        quarter = len(self.peaks) // 4
        return median(self.bits[-quarter:]) - median(self.bits[:quarter]) if quarter else None


class Flowed(Struct, frozen=True):
    """How many tensors of `dtype` (a plain name, "float16") flowed there."""

    layer: str
    flow: Flow
    dtype: str
    count: int = 1

    def joined(self, other: Flowed) -> Flowed:
        """Both together."""
        return replace(self, count=self.count + other.count)


class Cast(Struct, frozen=True):
    """Conversions between floating dtypes inside a layer: how many, and bytes written by them.

    Counted in the steps that were sampled: the trace's fact `cast_steps` says how many those were.

    `what` is "activation" or "parameter" in the forward pass, "gradient" in the backward pass.
    """

    layer: str
    what: CastOf
    source: str
    target: str
    count: int
    bytes: int

    def joined(self, other: Cast) -> Cast:
        """Both together."""
        return replace(self, count=self.count + other.count, bytes=self.bytes + other.bytes)


class Optimizer(Struct, frozen=True):
    """An optimizer; `index` is the order of first use."""

    index: int
    type: str


class Attempts(Struct, frozen=True):
    """Consecutive attempts of one optimizer that went alike, `first` to `last` inclusive.

    `applied` is False for a step the scaler skipped, None where it could not be seen. `scale` is
    the loss scale in force, None without loss scaling.
    """

    optimizer: int
    first: int
    last: int
    applied: bool | None
    scale: float | None


class Incident(Struct, frozen=True):
    """Non-finite or vanished numbers at the layer where they began (an `events` entry of a report).

    `kind` is activation-overflow, activation-nan, gradient-overflow, gradient-nan,
    gradient-underflow or input-nonfinite; `judgement` is defect, benign, masked or from-data.
    `call` is the call of the layer within the step (from 0) in which it was seen first.
    """

    rule: str
    kind: str
    layer: str
    first_step: int
    last_step: int
    call: int
    nonfinite: tuple[str, ...]
    judgement: str
    message: str
    filename: str | None = None
    row: int | None = None
    rank: int = 0
    count: int = 1

    def joined(self, other: Incident) -> Incident:
        """The same kind at the same layer: told as it was first seen; a defect outweighs the rest."""
        first, later = (self, other) if self.first_step <= other.first_step else (other, self)
        return replace(
            first,
            last_step=max(first.last_step, later.last_step),
            nonfinite=tuple(sorted({*first.nonfinite, *later.nonfinite})),
            judgement=later.judgement if later.judgement == "defect" else first.judgement,
            count=first.count + later.count,
        )


Row = Layer | Flowed | Statistics | Histogram | Peaks | Cast | Optimizer | Attempts | Incident


def _both(join: Any, one: Any, other: Any) -> Any:
    """What two values are together; None is not known."""
    return other if one is None else one if other is None else join(one, other)

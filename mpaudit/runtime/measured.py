"""What was measured of a tensor, and in which call of which layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from msgspec import Struct, field

from mpaudit.runtime.record import Phase, Statistics


class Values(Struct, frozen=True):
    """What was measured of one tensor.

    `amax` is the largest finite magnitude (None if nothing is finite); `only_minus` says that all
    that is not finite is -inf. `top` is the largest number, where all are finite and it is known.
    """

    elements: int
    amax: float | None
    inf: int
    nan: int
    only_minus: bool = False
    top: float | None = None

    @property
    def finite(self) -> bool:
        """Whether every element is finite."""
        return not (self.inf or self.nan)

    @property
    def nonfinite(self) -> tuple[str, ...]:
        """What there is besides finite values: "inf", "nan"."""
        return tuple(name for name, count in (("inf", self.inf), ("nan", self.nan)) if count)


def of_amax(elements: int, amax: float) -> Values:
    """What is known from the largest magnitude alone: where it is NaN, inf may be there as well."""
    if math.isfinite(amax):
        return Values(elements, amax, 0, 0)
    return Values(elements, None, int(math.isinf(amax)), int(math.isnan(amax)))


def of_range(elements: int, low: float, high: float) -> Values:
    """What is known from the least and the largest number, both NaN where one is.

    Of what is not finite that is whether it is there, not how many, and nothing of the other numbers.
    """
    if math.isnan(low):
        return Values(elements, None, 0, 1)
    if math.isinf(low) or math.isinf(high):
        return Values(elements, None, 1, 0, only_minus=high < math.inf)
    return Values(elements, max(-low, high) + 0.0, 0, 0, top=high)  # -0.0 is 0


def of_counts(elements: int, row: Sequence[float]) -> Values:
    """From the largest finite magnitude, and how many numbers are inf, NaN and -inf."""
    amax, plus, nan, minus = row
    anything = plus + nan + minus < elements
    only_minus = minus > 0 and not plus and not nan
    return Values(elements, amax if anything else None, int(plus + minus), int(nan), only_minus)


class Measured:
    """Values that are there at once or arrive later.

    `dtype` is that of the tensor (a plain name); a Gradient has its own.
    """

    __slots__ = ("_waiting", "computed", "dtype", "made", "values")

    def __init__(self, dtype: str = "", computed: bool = False, made: bool = False) -> None:
        self.dtype = dtype
        self.computed = computed
        """Whether a layer or an operation made the tensor (it is not data)."""
        self.made = made
        """Whether it is a layer's output."""
        self.values: Values | None = None
        self._waiting: list[Callable[[Values], None]] = []

    def arrive(self, values: Values) -> None:
        """The values are there: tell all who wait."""
        self.values = values
        for receive in self._waiting:
            receive(values)
        self._waiting.clear()

    def then(self, receive: Callable[[Values], None]) -> None:
        """Call `receive` with the values, now or when they arrive."""
        if self.values is not None:
            receive(self.values)
        else:
            self._waiting.append(receive)


class Place(Struct):
    """One call of a layer: `turn` counts the calls of the outermost module it belongs to, from 1.

    It is 0 of a call that is made again in the backward pass.
    """

    path: str
    step: int
    call: int
    turn: int
    dtype: str
    parameters: bool

    def statistics(self, phase: Phase, values: Values, dtype: str) -> Statistics:
        """The row of a trace for a tensor of this call."""
        bad = None if values.finite else self.step
        return Statistics(
            self.path,
            phase,
            dtype,
            calls=1,
            elements=values.elements,
            inf=values.inf,
            nan=values.nan,
            first_bad_step=bad,
            last_bad_step=bad,
            amax=values.amax,
        )


class Gradient(Struct):
    """The gradient of a layer's output: measured in the backward pass.

    `consumers` are the gradients of what was computed from this output, by layers that were called.
    `is_scale`: the output is one wide number, so a loss: its gradient is the loss scale, or a part
    of it, whatever the layer does.
    """

    place: Place
    dtype: str | None = None
    is_scale: bool = False
    measured: Measured = field(default_factory=Measured)
    consumers: list[Gradient] = field(default_factory=list)

"""What was measured of a tensor, and in which call of which layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mpaudit.runtime.record import Phase, Statistics


@dataclass(
    slots=True
)  # not frozen: there is one for every tensor, and those take five times as long
class Values:
    """What was measured of one tensor.

    `amax` is the largest finite magnitude (None if nothing is finite); `only_minus` says that all
    that is not finite is -inf. `top` is the largest number, where all are finite and it is known.
    """

    elements: int
    amax: float | None
    inf: int
    nan: int
    only_minus: bool = False
    top: float | None = field(default=None, compare=False)

    @property
    def finite(self) -> bool:
        """Whether every element is finite."""
        return not (self.inf or self.nan)

    @property
    def nonfinite(self) -> tuple[str, ...]:
        """What there is besides finite values: "inf", "nan"."""
        return tuple(name for name, count in (("inf", self.inf), ("nan", self.nan)) if count)


class Measured:
    """Values that are there at once or arrive later."""

    __slots__ = ("_waiting", "computed", "made", "values")

    def __init__(self, computed: bool = False, made: bool = False) -> None:
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


@dataclass(slots=True)
class Place:
    """One call of a layer: `turn` counts the calls of the outermost module it belongs to."""

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


@dataclass(slots=True)
class Gradient:
    """The gradient of a layer's output: measured in the backward pass.

    `consumers` are the gradients of what was computed from this output, by layers that were called.
    """

    place: Place
    dtype: str | None = None
    measured: Measured = field(default_factory=Measured)
    consumers: list[Gradient] = field(default_factory=list)

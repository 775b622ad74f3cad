"""Where numbers go wrong: the layer with finite values in and non-finite values out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from mpaudit.finding import Moment, Position, Problem, Span
from mpaudit.runtime.record import LARGEST, Incident
from mpaudit.runtime.tracer import Tracer


@dataclass(frozen=True, slots=True)
class Values:
    """What was measured of one tensor.

    `amax` is the largest finite magnitude (None if nothing is finite); `only_minus` says that all
    that is not finite is -inf.
    """

    elements: int
    amax: float | None
    inf: int
    nan: int
    only_minus: bool = False

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

    __slots__ = ("_waiting", "computed", "values")

    def __init__(self, computed: bool = False) -> None:
        self.computed = computed
        """Whether a layer or an operation made the tensor (it is not data)."""
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


@dataclass(frozen=True, slots=True)
class Place:
    """One call of a layer: `turn` counts the calls of the outermost module it belongs to."""

    path: str
    step: int
    call: int
    turn: int
    dtype: str
    parameters: bool


@dataclass(slots=True)
class Gradient:
    """The gradient of a layer's output: measured in the backward pass.

    `consumers` are the gradients of what was computed from this output, by layers that were called.
    """

    place: Place
    dtype: str | None = None
    measured: Measured = field(default_factory=Measured)
    consumers: list[Gradient] = field(default_factory=list)


class Origins:
    """Turns measured values into incidents, at the layer where they began."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._turn = 0
        self._begun: list[str] = []  # paths where this turn's numbers went wrong
        self._bad_step: int | None = None  # the last step whose forward pass went wrong
        self._undecided: list[Incident] = []  # in gradients, until the step is applied or skipped

    def output(self, place: Place, values: Values, inputs: Sequence[Measured]) -> None:
        """A call's output is not finite."""
        if place.turn != self._turn:
            self._turn, self._begun = place.turn, []
        known = [each for each in inputs if each.values is not None]
        if bad := [each for each in known if each.values and not each.values.finite]:
            if not any(each.computed for each in bad):
                message = f"non-finite values come into {_title(place.path)} with the data"
                self._record("activation-overflow", "input-nonfinite", place, values, message)
                self._begun.append(place.path)
            return
        if any(_within(begun, place.path) for begun in self._begun):
            return
        self._begun.append(place.path)
        self._bad_step = place.step
        limit = LARGEST.get(place.dtype, math.inf)
        largest = max((each.values.amax or 0.0 for each in known if each.values), default=0.0)
        kind = "activation-overflow" if values.inf or largest > limit else "activation-nan"
        what = " and ".join(values.nonfinite)
        masked = values.only_minus and not place.parameters
        message = f"{_title(place.path)} makes {what} from finite inputs in {place.dtype}"
        if largest > limit:
            message += f", which cannot hold the input's {largest:.3g}"
        judgement = "masked" if masked else "defect"
        self._record("activation-overflow", kind, place, values, message, judgement)
        if not masked:
            self._report(place, values, message)

    def gradient(self, gradient: Gradient, values: Values) -> None:
        """A gradient arrived and is not finite."""
        if gradient.place.step == self._bad_step:  # the forward pass was wrong already
            return
        after = [consumer.measured.values for consumer in gradient.consumers]
        if any(each is not None and not each.finite for each in after):
            return
        kind = "gradient-overflow" if values.inf else "gradient-nan"
        what = " and ".join(values.nonfinite)
        if gradient.consumers:
            place = gradient.consumers[-1].place
            message = f"{_title(place.path)} makes {what} from a finite gradient in {place.dtype}"
        else:
            place = gradient.place
            message = f"{what} comes back to {_title(place.path)} from what follows the layers"
        self._undecided.append(
            self._incident("gradient-overflow", kind, place, values, message, "defect")
        )

    def settled(self, applied: bool | None) -> None:
        """An attempt ended: what overflowed before it is benign if the scaler skipped the step."""
        for incident in self._undecided:
            if applied is False:
                self._tracer.incident(_benign(incident))
            else:
                self._tracer.incident(incident)
        self._undecided.clear()

    def _incident(
        self, rule: str, kind: str, place: Place, values: Values, message: str, judgement: str
    ) -> Incident:
        layer = self._tracer.known(place.path)
        return Incident(
            rule=rule,
            kind=kind,
            layer=place.path,
            first_step=place.step,
            last_step=place.step,
            call=place.call,
            nonfinite=values.nonfinite,
            judgement=judgement,
            message=message,
            filename=layer.filename,
            row=layer.row,
        )

    def _record(
        self,
        rule: str,
        kind: str,
        place: Place,
        values: Values,
        message: str,
        judgement: str = "from-data",
    ) -> None:
        self._tracer.incident(self._incident(rule, kind, place, values, message, judgement))

    def _report(self, place: Place, values: Values, message: str) -> None:
        layer = self._tracer.known(place.path)
        row = layer.row or 1
        span = Span(layer.filename or "<unknown>", Position(row, 1), Position(row, 1))
        share = f"{values.inf + values.nan} of {values.elements} values"
        limit = " (the largest float16 is 65504)" if place.dtype == "float16" else ""
        moment = Moment(step=place.step, layer=place.path, op=layer.type)
        self._tracer.problem(
            Problem(
                rule="activation-overflow",
                span=span,
                message=f"{message}, first at step {place.step}",
                consequence=f"{share} are lost there{limit}",
                moment=moment,
            )
        )


def _title(path: str) -> str:
    return f"layer {path!r}" if path else "the model"


def _within(path: str, outer: str) -> bool:
    return path == outer or not outer or path.startswith(f"{outer}.")


def _benign(incident: Incident) -> Incident:
    return replace(
        incident, judgement="benign", message=f"{incident.message}; the step was skipped"
    )

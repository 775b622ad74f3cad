"""Where numbers go wrong: the layer with finite values in and non-finite values out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from mpaudit.finding import Moment, Position, Problem, Span
from mpaudit.runtime.measured import Gradient, Measured, Place, Values
from mpaudit.runtime.record import LARGEST, LOW_PRECISION, Incident, Layer
from mpaudit.runtime.tracer import Tracer

_ROOM = 16  # so many times smaller than the largest number of a dtype, what is beside -inf is far from it
_ASKED = 3  # times that a layer under suspicion is looked at closely


class _Undecided(Struct):
    """What went wrong in gradients until it is known what became of them.

    `made_in` is the dtype if a layer made it; `turn` is that of the outermost call whose gradients went
    wrong, 0 if only the parameters' were looked at; `finite` are optimizers whose gradients are finite.
    """

    incident: Incident
    made_in: str | None
    turn: int = 0
    finite: list[int] = field(default_factory=list)


class Origins:
    """Turns measured values into incidents, at the layer where they began."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._turn = 0
        self._begun: list[str] = []  # paths where this turn's numbers went wrong
        self._inside: set[tuple[str, str]] = set()  # a path, and that of a layer around it
        self._bad_step: int | None = None  # the last step whose forward pass went wrong
        self._latest = self._earlier = -2
        """The step of the last output that was not finite; the same before the call that it was in."""
        self._undecided: list[_Undecided] = []
        self.suspected: dict[str, int] = {}
        """Layers behind which gradients went bad, and how often each may yet be asked whether it
        was the layer, or something beside it."""
        self._proved: set[str] = set()
        self._came: dict[str, int] = {}  # layer -> the last step in which a gradient came to it bad
        self._low: set[str] = set()  # layers at which gradients in float16 went bad
        self._suspects: list[Incident] = []  # of them, what the last attempt applied unscaled
        self._ruined: Incident | None = None  # the one that went into the parameters

    def output(
        self,
        place: Place,
        values: Values,
        inputs: Sequence[Measured],
        ruined: str | None = None,
        outermost: bool = False,
    ) -> None:
        """A call's output is not finite; `ruined` names a parameter of the layer that is not either.

        `outermost` says that no layer was being called around it, and that all layers are looked at.
        """
        if place.turn != self._turn:
            self._turn, self._begun = place.turn, []
            self._earlier = self._latest
        self._latest = place.step
        known = [each for each in inputs if each.values is not None]
        if bad := [each for each in known if each.values and not each.values.finite]:
            if not any(each.computed for each in bad):
                if (
                    self._begun
                ):  # computed of what went wrong before: without a graph nobody can tell
                    return
                message = f"non-finite values come into {_title(place.path)} with the data"
                self._record("activation-overflow", "input-nonfinite", place, values, message)
                self._begun.append(place.path)
            elif outermost and self._earlier < place.step - 1 and not self._begun:
                self._between(place, [each for each in bad if not each.made])
            return
        if any(self._within(begun, place.path) for begun in self._begun):
            return
        if self._ruins(place):
            self._bad_step = place.step
            return
        self._begun.append(place.path)
        limit = LARGEST.get(place.dtype, math.inf)
        largest = max((each.values.amax or 0.0 for each in known if each.values), default=0.0)
        kind = "activation-overflow" if values.inf or largest > limit else "activation-nan"
        what = " and ".join(values.nonfinite)
        small = values.amax is not None and values.amax < limit / _ROOM
        masked = values.only_minus and not ruined and (small or not place.parameters)
        if not masked:
            self._bad_step = place.step
        message = f"{_title(place.path)} makes {what}"
        message += _dtypes(place.dtype, "finite inputs", (each.dtype for each in known))
        if ruined:
            message = (
                f"the {ruined} of {_title(place.path)} is not finite: an earlier step was applied "
            )
            message += "with such gradients, or it was so from the start"
        elif largest > limit:
            message += f": {place.dtype} cannot hold the input's {largest:.3g}"
        judgement = "masked" if masked else "defect"
        self._record("activation-overflow", kind, place, values, message, judgement)
        if not masked:
            self._report(place, values, message)

    def called_in(self, path: str, around: Sequence[str]) -> None:
        """A layer is called within others, whatever their paths say."""
        self._inside.update((path, each) for each in around)

    def _within(self, path: str, outer: str) -> bool:
        """Whether a layer is another one or part of it."""
        known = (path, outer) in self._inside
        return known or path == outer or not outer or path.startswith(f"{outer}.")

    def _between(self, place: Place, bad: Sequence[Measured]) -> None:
        """What came into an outermost layer is not finite, and no layer made it."""
        found = [each for each in bad if each.values and not each.values.only_minus]
        if not found or found[0].values is None:
            return
        values, came = found[0].values, replace(place, dtype=found[0].dtype)
        self._bad_step = place.step
        self._begun.append(place.path)
        what = " and ".join(values.nonfinite)
        message = f"{what} in {came.dtype} comes into {_title(place.path)} that no layer made: "
        message += "it was computed before the call"
        self._record("activation-overflow", "input-nonfinite", came, values, message, "defect")
        self._report(came, values, message)

    def loss(self, step: int, at: Span, value: float, dtype: str, scaled: bool) -> None:
        """A loss is not finite, if it is `scaled` before that: no scaler gets past it."""
        if self._bad_step == step or self._latest == step:  # a layer's numbers were wrong already
            return
        self._bad_step, self._begun = step, []
        what = "nan" if math.isnan(value) else "inf"
        kind = (
            "activation-overflow" if what == "inf" and dtype in LOW_PRECISION else "activation-nan"
        )
        message = f"the loss is {what} in {dtype}{', before it is scaled' if scaled else ''}"
        if not self._tracer.sampling.light:
            message += ", and no layer's output is"
        lost = "no loss scale is low enough for it" if scaled else "its gradients may be applied"
        self._tracer.incident(
            Incident(
                rule="activation-overflow",
                kind=kind,
                layer="",
                first_step=step,
                last_step=step,
                call=0,
                nonfinite=(what,),
                judgement="defect",
                message=message,
                filename=at.filename,
                row=at.start.row,
            )
        )
        self._tracer.problem(
            Problem(
                rule="activation-overflow",
                span=at,
                message=f"{message}, first at step {step}",
                consequence=f"the step is lost, and {lost}",
                moment=Moment(step=step),
            )
        )

    def gradient(self, gradient: Gradient, values: Values) -> None:
        """A gradient arrived and is not finite."""
        self._came[gradient.place.path] = gradient.place.step
        if gradient.place.step == self._bad_step:  # the forward pass was wrong already
            return
        after = [consumer.measured.values for consumer in gradient.consumers]
        if any(each is not None and not each.finite for each in after):
            return
        kind = "gradient-overflow" if values.inf else "gradient-nan"
        what = " and ".join(values.nonfinite)
        made_in = None
        if gradient.consumers:
            places = [consumer.place for consumer in gradient.consumers]
            self.suspected.update({place.path: _ASKED for place in places if self._new(place.path)})
            proved = [each for each in places if each.path in self._proved]
            place = (proved or places)[-1]
            # One that is cast to a wider dtype on its way back went wrong before that.
            narrow = gradient.dtype in LOW_PRECISION and place.dtype not in LOW_PRECISION
            bad_in = gradient.dtype if narrow and gradient.dtype else place.dtype
            made_in = bad_in if proved else None
            dtypes = _dtypes(bad_in, "a finite gradient", [place.dtype])
            message = f"{_title(place.path)} makes {what}{dtypes}"
            if not proved:
                message = f"{what} in what comes back through {_title(place.path)} or beside it,"
                message += dtypes
        else:
            place = gradient.place
            if self._passed_on(place):
                return
            message = f"{what} in what comes back to {_title(place.path)} from behind the layers"
        found = self._incident("gradient-overflow", kind, place, values, message, "defect")
        if gradient.dtype == "float16":
            self._low.add(place.path)
        self._undecided.append(_Undecided(found, made_in, gradient.place.turn))

    def _passed_on(self, place: Place) -> bool:
        """Whether a gradient that no layer gave has gone wrong nearer to the loss, in the same pass.

        There are operations between layers, such as a residual sum, and they pass it on.
        """
        return any(
            each.turn == place.turn if place.turn else each.incident.first_step == place.step
            for each in self._undecided
        )

    def _new(self, path: str) -> bool:
        return path not in self.suspected and path not in self._proved

    def proved(self, path: str) -> None:
        """A layer was seen to make a non-finite gradient from a finite one."""
        self.suspected[path] = 0
        self._proved.add(path)

    def known(self, step: int) -> bool:
        """Whether it is known already where the numbers of an attempt went wrong."""
        return bool(self._undecided) or self._bad_step == step

    def came_bad(self, path: str, step: int) -> bool:
        """Whether what came back to a layer was not finite, so that its parameters have it from there."""
        return self._came.get(path) == step

    def weights(self, place: Place, values: Values, name: str, since: str = "") -> None:
        """The gradient of a layer's parameter `name` is not finite; those of the outputs are.

        `since` says what was done to it since the layer made it, if anything was.
        """
        kind = "gradient-overflow" if values.inf else "gradient-nan"
        what = "inf" if values.inf else "inf or nan"  # clipping has made NaN of inf
        if since:
            message = f"{what} in the gradient of {name} of {_title(place.path)} {since}: "
            message += "what came back to the layer is finite"
        else:
            message = f"{_title(place.path)} makes {what} in the gradient of its {name} in "
            message += f"{place.dtype}, from a finite gradient"
        found = self._incident("gradient-overflow", kind, place, values, message, "defect")
        self._undecided.append(_Undecided(found, None if since else place.dtype))

    def parameters(self, bad: Sequence[tuple[Place, str, Values]], together: int) -> None:
        """Gradients of parameters, each with its name, are not finite: `bad` of so many `together`.

        What came back to the layers was not looked at, so the one that was called last is named: it is
        the nearest to the loss, and the others have it from there. The order of the optimizer is not
        asked for: weights and biases are often groups of their own in it.
        """
        if not bad or bad[0][0].step == self._bad_step:  # the forward pass was wrong already
            return
        known = self._tracer.known
        place, name, values = max(reversed(bad), key=lambda each: known(each[0].path).position)
        kind = "gradient-overflow" if values.inf else "gradient-nan"
        message = f"{' or '.join(values.nonfinite)} in the gradient of {name} of "
        message += f"{_title(place.path)}, the last of {len(bad)} such of {together} parameters"
        found = self._incident("gradient-overflow", kind, place, values, message, "defect")
        self._undecided.append(_Undecided(found, None))

    def settled(
        self, index: int, step: int, applied: bool | None, scaled: bool, checked: bool
    ) -> list[str]:
        """An attempt ended: what overflowed before it is benign if the scaler skipped the step.

        `checked` says that a scaler looked at the gradients of this optimizer. Where it applied them, what
        is not finite is another's that steps later, or nobody's if this one comes first again.
        Returns the layers where it began, forward or backward.
        """
        self._suspects = []
        if not self._undecided and self._bad_step != step:
            return []
        began = [each.incident.layer for each in self._undecided]
        if self._bad_step == step:
            began = self._begun
        undecided, self._undecided = self._undecided, []
        for each in undecided:
            if applied and checked and index not in each.finite:
                each.finite.append(index)
                self._undecided.append(each)
            elif applied is False:
                self._tracer.incident(_benign(each.incident), made_in=each.made_in)
            else:
                self._tracer.incident(each.incident, made_in=each.made_in)
                if applied and not scaled and each.incident.layer in self._low:
                    self._suspects.append(each.incident)
        return list(dict.fromkeys(began))

    def over(self, scaled: bool) -> None:
        """The run is over, and no attempt follows what is not decided: micro-batches were left over.

        Where losses are `scaled`, nothing of it was ever applied, and the scaler would have looked.
        """
        undecided, self._undecided = self._undecided, []
        for each in undecided:
            found = each.incident
            self._tracer.incident(
                _benign(found, "no step followed") if scaled else found, made_in=each.made_in
            )

    def _ruins(self, place: Place) -> bool:
        """Whether bad parameters are to blame: gradients that overflowed were applied before."""
        if self._ruined is None and self._suspects and place.parameters:
            self._ruined = self._suspects[0]
            self._confirm(self._ruined)
        return self._ruined is not None

    def _confirm(self, incident: Incident) -> None:
        layer = self._tracer.known(incident.layer)
        self._tracer.problem(
            Problem(
                rule="gradient-overflow",
                span=_row(layer),
                message=(
                    f"gradients in float16 become {' and '.join(incident.nonfinite)} "
                    f"at {_title(incident.layer)}, and step {incident.first_step} applies them"
                ),
                consequence="there is no loss scaling to skip the step: parameters are lost",
                moment=Moment(step=incident.first_step, layer=incident.layer, op=layer.type),
            )
        )

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
        share = f"{values.inf + values.nan} of {values.elements} values"
        limit = " (the largest float16 is 65504)" if place.dtype == "float16" else ""
        moment = Moment(step=place.step, layer=place.path, op=layer.type)
        self._tracer.problem(
            Problem(
                rule="activation-overflow",
                span=_row(layer),
                message=f"{message}, first at step {place.step}",
                consequence=f"{share} are lost there{limit}",
                moment=moment,
            )
        )


def _dtypes(bad: str, of: str, finite: Iterable[str]) -> str:
    """In which dtype what went `bad` is, and what is finite that it was made `of`."""
    others = sorted({*finite})
    if others in ([], [bad]):
        return f" from {of} in {bad}"
    return f" in {bad} from {of} in {' and '.join(others)}"


def _row(layer: Layer) -> Span:
    place = Position(layer.row or 1, 1)
    return Span(layer.filename or "<unknown>", place, place)


def _title(path: str) -> str:
    return f"layer {path!r}" if path else "the model"


def _benign(incident: Incident, why: str = "the step was skipped") -> Incident:
    return replace(incident, judgement="benign", message=f"{incident.message}; {why}")

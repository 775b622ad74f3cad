"""Where numbers went wrong, told from what the taps of one interval rolled up.

A tap knows its first and its last bad tick. A layer is an origin if nothing that flows into it was
bad by its own first bad tick; a gradient went wrong in the layer that took a good one in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from mpaudit.finding import Moment, Position, Problem, Span
from mpaudit.runtime.record import LARGEST, Incident
from mpaudit.runtime.tracer import Tracer


@dataclass(frozen=True, slots=True)
class Bad:
    """Non-finite values at one layer, forward or backward: ticks, and what there was.

    Of several replicas, `replicas` are those that had them at the first tick.
    """

    first: int
    last: int
    inf: int
    nan: int
    dtype: str
    replicas: frozenset[int] = frozenset()

    @property
    def nonfinite(self) -> tuple[str, ...]:
        """What there is besides finite values: "inf", "nan"."""
        return tuple(name for name, count in (("inf", self.inf), ("nan", self.nan)) if count)

    def joined(self, other: Bad | None) -> Bad:
        """Both together."""
        if other is None:
            return self
        least = min(self.first, other.first)
        sets = (each.replicas for each in (self, other) if each.first == least)
        return Bad(
            least,
            max(self.last, other.last),
            self.inf + other.inf,
            self.nan + other.nan,
            self.dtype,
            frozenset[int]().union(*sets),
        )

    @property
    def what(self) -> str:
        """The same in words."""
        return " and ".join(self.nonfinite)

    @property
    def where(self) -> str:
        """Of several replicas, on which."""
        if not self.replicas:
            return ""
        numbers = " and ".join(map(str, sorted(self.replicas)))
        return f" on replica{'s' * (len(self.replicas) > 1)} {numbers}"


@dataclass(frozen=True, slots=True)
class Interval:
    """What was bad between two reads, by layer path.

    `weights` are the gradients of a layer's parameters, as the optimizer gets them; `sources` the
    layers whose outputs a layer takes in, `entered` what came into it from
    elsewhere (data, or operations between the layers), `largest` the magnitudes that left layers.
    `step` gives the attempt of a tick, `applied` whether it was applied. `origins` are the layers where it
    began, once that is judged.
    """

    forward: Mapping[str, Bad]
    backward: Mapping[str, Bad]
    weights: Mapping[str, Bad]
    entered: Mapping[str, Bad]
    sources: Mapping[str, Set[str]]
    largest: Mapping[str, float]
    step: Callable[[int], int]
    applied: Callable[[int], bool | None]
    origins: list[tuple[str, Bad]] = field(default_factory=list)

    def culprits(self, tick: int) -> list[str]:
        """The layers because of which the attempt at a tick was skipped, as far as that is known.

        A tap knows the first and the last tick at which a layer was bad. What lies between them is its
        doing too where every attempt was skipped.
        """
        around = [(path, bad) for path, bad in self.origins if bad.first <= tick <= bad.last]
        sure = [
            path
            for path, bad in around
            if tick in (bad.first, bad.last)
            or all(self.applied(each) is False for each in range(bad.first, bad.last + 1))
        ]
        return list(dict.fromkeys(sure))


def judge(tracer: Tracer, seen: Interval) -> None:
    """Tell the tracer of the incidents of an interval."""
    for path, bad in seen.forward.items():
        if not _passed_on(path, bad, seen):
            _forward(tracer, path, bad, seen)
    for path, bad in seen.backward.items():
        if _forward_was_bad(bad, seen):
            continue
        consumers = [other for other, sources in seen.sources.items() if path in sources]
        if not any(_earlier(seen.backward.get(other), bad) for other in consumers):
            _backward(tracer, path, bad, consumers, seen)
    for path, bad in seen.weights.items():
        own = seen.backward.get(path)
        if own is not None and own.first <= bad.first:
            if bad.last <= own.last:
                continue
            bad = replace(bad, first=bad.last, replicas=frozenset())
        if not _forward_was_bad(bad, seen):
            message = f"the gradient of layer {path!r}'s parameters has {bad.what}{bad.where}"
            _gradient(tracer, path, bad, message, seen)


def _forward_was_bad(bad: Bad, seen: Interval) -> bool:
    return any(each.first <= bad.first <= each.last for each in seen.forward.values())


def _passed_on(path: str, bad: Bad, seen: Interval) -> bool:
    """Whether a layer only passes on what went wrong before, or inside it."""
    if any(_earlier(seen.forward.get(source), bad) for source in seen.sources.get(path, ())):
        return True
    inside = (other for other in seen.forward if other.startswith(f"{path}/"))
    if any(_earlier(seen.forward[other], bad) for other in inside):
        return True
    others = (each for other, each in seen.forward.items() if other != path)
    return _earlier(seen.entered.get(path), bad) and any(_earlier(each, bad) for each in others)


def _earlier(one: Bad | None, other: Bad) -> bool:
    return one is not None and one.first <= other.first


def _forward(tracer: Tracer, path: str, bad: Bad, seen: Interval) -> None:
    if _earlier(seen.entered.get(path), bad):
        message = f"non-finite values come into layer {path!r} with the data{bad.where}"
        tracer.incident(_incident(tracer, "input-nonfinite", path, bad, seen, message, "from-data"))
        return
    limit = LARGEST[bad.dtype]
    largest = max((seen.largest.get(each, 0.0) for each in seen.sources.get(path, ())), default=0.0)
    kind = "activation-overflow" if bad.inf or largest > limit else "activation-nan"
    message = f"layer {path!r} makes {bad.what} from finite inputs in {bad.dtype}{bad.where}"
    if largest > limit:
        message += f", which cannot hold the input's {largest:.3g}"
    told = message + _all_the_same(bad, seen)
    incident = _incident(tracer, kind, path, bad, seen, told, "defect")
    tracer.incident(incident)
    row = incident.row or 1
    bound = f" (the largest {bad.dtype} is {limit:.6g})" if math.isfinite(limit) else ""
    tracer.problem(
        Problem(
            rule="activation-overflow",
            span=Span(incident.filename or "<unknown>", Position(row, 1), Position(row, 1)),
            message=f"{message}, first at step {incident.first_step}",
            consequence=f"values are lost there, and in every layer after it{bound}",
            moment=Moment(incident.first_step, path, tracer.known(path).type),
        )
    )


def _backward(
    tracer: Tracer, path: str, bad: Bad, consumers: Sequence[str], seen: Interval
) -> None:
    place = consumers[-1] if consumers else path
    if consumers:
        message = f"layer {place!r} makes {bad.what} from a finite gradient in {bad.dtype}"
    else:
        message = f"{bad.what} comes back to layer {path!r} from what follows the layers"
    message += bad.where
    _gradient(tracer, place, bad, message, seen)


def _gradient(tracer: Tracer, place: str, bad: Bad, message: str, seen: Interval) -> None:
    benign = seen.applied(bad.first) is False and seen.applied(bad.last) is False
    if benign:
        message += "; the step was skipped"
    message += _all_the_same(bad, seen)
    kind = "gradient-overflow" if bad.inf else "gradient-nan"
    judgement = "benign" if benign else "defect"
    tracer.incident(_incident(tracer, kind, place, bad, seen, message, judgement))


def _all_the_same(bad: Bad, seen: Interval) -> str:
    """Keras 3 skips a step by the gradients of the first replica only."""
    applied = bad.replicas and 0 not in bad.replicas and seen.applied(bad.first)
    return ", and the step was applied all the same" if applied else ""


def _incident(
    tracer: Tracer, kind: str, path: str, bad: Bad, seen: Interval, message: str, judgement: str
) -> Incident:
    layer = tracer.known(path)
    seen.origins.append((path, bad))
    return Incident(
        rule="gradient-overflow" if kind.startswith("gradient") else "activation-overflow",
        kind=kind,
        layer=path,
        first_step=seen.step(bad.first),
        last_step=seen.step(bad.last),
        call=0,
        nonfinite=bad.nonfinite,
        judgement=judgement,
        message=message,
        filename=layer.filename,
        row=layer.row,
    )

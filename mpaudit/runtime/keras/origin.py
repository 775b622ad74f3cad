"""Where numbers went wrong, told from what the taps of one interval rolled up.

A tap knows its first bad tick, and the last ones. A layer is an origin if nothing that flows into it was
bad by its own first bad tick; a gradient went wrong in the layer that took a good one in. What began
elsewhere in a later attempt is found by looking at that one alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from mpaudit.finding import Moment, Position, Problem, Span
from mpaudit.runtime.keras.vector import RECENT
from mpaudit.runtime.record import LARGEST, Incident
from mpaudit.runtime.tracer import Tracer


class Bad(Struct, frozen=True):
    """Non-finite values at one layer, forward or backward: ticks, and what there was.

    `ticks` are those that are known, see `taps.Numbers.bad`. Of several replicas, `replicas` are those
    that had them at the first tick.
    """

    first: int
    last: int
    inf: int
    nan: int
    dtype: str
    ticks: frozenset[int]
    replicas: frozenset[int] = frozenset()

    def was(self, tick: int) -> bool | None:
        """Whether there were any at a tick; None if that is not known any more."""
        if tick in self.ticks or tick in (self.first, self.last):
            return True
        if not self.first < tick < self.last:
            return False
        later = any(each > tick and (each - tick) % RECENT == 0 for each in self.ticks)
        return None if later else False

    def only(self, ticks: Set[int]) -> Bad:
        """The same as if these ticks, at some of which there were any, were all."""
        its = frozenset(each for each in ticks if self.was(each))
        first = min(its)
        replicas = self.replicas if first == self.first else frozenset[int]()
        return replace(self, first=first, last=max(its), ticks=its, replicas=replicas)

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
            self.ticks | other.ticks,
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


class Interval(Struct, frozen=True):
    """What was bad between two reads, by layer path.

    `weights` are the gradients of a layer's parameters, as the optimizer gets them; `sources` the
    layers whose outputs a layer takes in, `entered` what came into it from
    elsewhere (data, or operations between the layers), `largest` the magnitudes that left layers.
    `step` gives the attempt of a tick, `applied` whether it was applied, `begun` the first tick at which
    what it was made of may have been computed, where several optimizers take turns.
    """

    forward: Mapping[str, Bad]
    backward: Mapping[str, Bad]
    weights: Mapping[str, Bad]
    entered: Mapping[str, Bad]
    sources: Mapping[str, Set[str]]
    largest: Mapping[str, float]
    step: Callable[[int], int]
    applied: Callable[[int], bool | None]
    begun: Callable[[int], int]

    @property
    def tables(self) -> tuple[Mapping[str, Bad], ...]:
        """All that was bad."""
        return self.forward, self.backward, self.weights, self.entered

    def of(self, tick: int) -> Interval | None:
        """The same of one attempt alone; None if something is not known of it any more."""
        ticks = {tick}
        for path, bad in self.weights.items():
            made_of = [*self.forward.values(), *filter(None, [self.backward.get(path)])]
            if bad.was(tick) and not any(each.was(tick) for each in made_of):
                before = range(self.begun(tick), tick)  # computed before the attempts of others
                ticks.update(n for n in before if any(each.was(n) for each in made_of))
        every = [bad for table in self.tables for bad in table.values()]
        if any(bad.was(n) is None for bad in every for n in ticks):
            return None

        def its(table: Mapping[str, Bad]) -> dict[str, Bad]:
            found = table.items()
            return {path: bad.only(ticks) for path, bad in found if any(map(bad.was, ticks))}

        forward, backward, weights, entered = map(its, self.tables)
        return replace(self, forward=forward, backward=backward, weights=weights, entered=entered)

    @property
    def pattern(self) -> tuple[frozenset[str], ...]:
        """What was bad, whenever it was."""
        return tuple(frozenset(table) for table in self.tables)


class Told(NamedTuple):
    """An origin: what was bad there, and what is told of it."""

    bad: Bad
    incident: Incident
    problem: Problem | None = None


def judge(tracer: Tracer, seen: Interval) -> None:
    """Tell the tracer of the incidents of an interval, and of those that others hide."""
    told = list(_origins(tracer, seen))
    places = {(each.incident.kind, each.incident.layer) for each in told}
    hidden = (each for alone in _alone(seen) for each in _origins(tracer, alone))
    told += (each for each in hidden if (each.incident.kind, each.incident.layer) not in places)
    for each in told:
        tracer.incident(each.incident)
        if each.problem is not None:
            tracer.problem(each.problem)


def _alone(seen: Interval) -> Iterator[Interval]:
    """Attempts of which each differs from those before it, and from all together, by what was bad in it."""
    patterns = {seen.pattern}
    ticks = {tick for table in seen.tables for bad in table.values() for tick in bad.ticks}
    for tick in sorted(ticks):
        alone = seen.of(tick)
        if alone is not None and alone.pattern not in patterns:
            patterns.add(alone.pattern)
            yield alone


def culprits(
    tracer: Tracer, seen: Interval, ticks: Iterable[int]
) -> Iterator[tuple[int, list[str]]]:
    """The layers because of which the attempts at these ticks were skipped, as far as that is known.

    Where that is not known any more of each tap, it is the doing of what was bad before and after if every
    attempt between was skipped.
    """
    found: dict[object, list[Told]] = {}
    for tick in ticks:
        alone = seen.of(tick)
        pattern = None if alone is None else alone.pattern
        if pattern not in found:
            found[pattern] = list(_origins(tracer, alone or seen))
        its = (each for each in found[pattern] if alone or _lasted(each.bad, tick, seen))
        yield tick, list(dict.fromkeys(each.incident.layer for each in its))


def _lasted(bad: Bad, tick: int, seen: Interval) -> bool:
    all_skipped = all(seen.applied(each) is False for each in range(bad.first, bad.last + 1))
    return bad.first <= tick <= bad.last and (bad.was(tick) is True or all_skipped)


def _origins(tracer: Tracer, seen: Interval) -> Iterator[Told]:
    for path, bad in seen.forward.items():
        if not _passed_on(path, bad, seen):
            yield _forward(tracer, path, bad, seen)
    for path, bad in seen.backward.items():
        if _forward_was_bad(bad, seen):
            continue
        consumers = [other for other, sources in seen.sources.items() if path in sources]
        if not any(_earlier(seen.backward.get(other), bad) for other in consumers):
            yield _backward(tracer, path, bad, consumers, seen)
    for path, bad in seen.weights.items():
        own = seen.backward.get(path)
        if own is not None and own.first <= bad.first:
            if bad.last <= own.last or _came(own, bad.last, seen):
                continue
            bad = replace(bad, first=bad.last, replicas=frozenset())
        if not any(_came(each, bad.first, seen) for each in seen.forward.values()):
            message = f"the gradient of layer {path!r}'s parameters has {bad.what}{bad.where}"
            yield _gradient(tracer, path, bad, message, seen)


def _came(one: Bad, tick: int, seen: Interval) -> bool:
    """Whether what an optimizer gets at a tick may come of what was bad then, or before the attempts of
    others."""
    return one.first <= tick and one.last >= seen.begun(tick)


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


def _forward(tracer: Tracer, path: str, bad: Bad, seen: Interval) -> Told:
    if _earlier(seen.entered.get(path), bad):
        message = f"non-finite values come into layer {path!r} with the data{bad.where}"
        data = _incident(tracer, "input-nonfinite", path, bad, seen, message, "from-data")
        return Told(bad, data)
    limit = LARGEST[bad.dtype]
    largest = max((seen.largest.get(each, 0.0) for each in seen.sources.get(path, ())), default=0.0)
    kind = "activation-overflow" if bad.inf or largest > limit else "activation-nan"
    message = f"layer {path!r} makes {bad.what} from finite inputs in {bad.dtype}{bad.where}"
    if largest > limit:
        message += f", which cannot hold the input's {largest:.3g}"
    told = message + _all_the_same(bad, seen)
    incident = _incident(tracer, kind, path, bad, seen, told, "defect")
    row = incident.row or 1
    bound = f" (the largest {bad.dtype} is {limit:.6g})" if math.isfinite(limit) else ""
    problem = Problem(
        rule="activation-overflow",
        span=Span(incident.filename or "<unknown>", Position(row, 1), Position(row, 1)),
        message=f"{message}, first at step {incident.first_step}",
        consequence=f"values are lost there, and in every layer after it{bound}",
        moment=Moment(incident.first_step, path, tracer.known(path).type),
    )
    return Told(bad, incident, problem)


def _backward(
    tracer: Tracer, path: str, bad: Bad, consumers: Sequence[str], seen: Interval
) -> Told:
    place = consumers[-1] if consumers else path
    if consumers:
        message = f"layer {place!r} makes {bad.what} from a finite gradient in {bad.dtype}"
    else:
        message = f"{bad.what} comes back to layer {path!r} from what follows the layers"
    message += bad.where
    return _gradient(tracer, place, bad, message, seen)


def _gradient(tracer: Tracer, place: str, bad: Bad, message: str, seen: Interval) -> Told:
    benign = seen.applied(bad.first) is False and seen.applied(bad.last) is False
    if benign:
        message += "; the step was skipped"
    message += _all_the_same(bad, seen)
    kind = "gradient-overflow" if bad.inf else "gradient-nan"
    judgement = "benign" if benign else "defect"
    return Told(bad, _incident(tracer, kind, place, bad, seen, message, judgement))


def _all_the_same(bad: Bad, seen: Interval) -> str:
    """Keras 3 skips a step by the gradients of the first replica only."""
    applied = bad.replicas and 0 not in bad.replicas and seen.applied(bad.first)
    return ", and the step was applied all the same" if applied else ""


def _incident(
    tracer: Tracer, kind: str, path: str, bad: Bad, seen: Interval, message: str, judgement: str
) -> Incident:
    layer = tracer.known(path)
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

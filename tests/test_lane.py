"""A cycle of events that comes again and again: nothing is said, or left unsaid, that would be otherwise."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest
from msgspec.structs import replace

from mpaudit.event import (
    Backward,
    Event,
    GradientsClipped,
    GradientsZeroed,
    LossComputed,
    LossScaled,
    LostSight,
    OptimizerStep,
    Ref,
    Region,
    ScalerMade,
    ScalerStep,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.finding import Position, Span
from mpaudit.protocols import machines
from mpaudit.protocols.protocol import Verdict, settle
from mpaudit.runtime.lane import Judges

SCALER, OTHER = Ref(1, "scaler"), Ref(2, "other")
SGD, ADAM = Ref(3, "sgd"), Ref(4, "adam")
LOSS, SCALED = Ref(("loss", 0), "loss"), Ref(("loss", 1), "Tensor")
HALF = Region(Span("a.py", Position(1, 1), Position(1, 9)), "cuda", "float16", True)


def at(row: int) -> Span:
    return Span("a.py", Position(row, 1), Position(row, 20))


def alphabet() -> list[Event]:
    """What a loop may do, each at a line of its own."""
    rows = iter(range(2, 99))
    found: list[Event] = []
    for scaler in (SCALER, OTHER):
        found += [
            LossScaled(at=at(next(rows)), scaler=scaler, loss=LOSS, result=SCALED),
            ScalerUpdate(at=at(next(rows)), scaler=scaler),
            Backward(at=at(next(rows)), loss=SCALED, scalers=(scaler,), made_in=HALF, inside=None),
        ]
        for optimizer in (SGD, ADAM):
            found += [
                Unscaled(at=at(next(rows)), scaler=scaler, optimizer=optimizer),
                ScalerStep(at=at(next(rows)), scaler=scaler, optimizer=optimizer),
            ]
    for optimizer in (SGD, ADAM):
        found += [
            GradientsZeroed(at=at(next(rows)), optimizer=optimizer),
            GradientsClipped(at=at(next(rows)), how="clip_grad_norm_", optimizers=(optimizer,)),
            OptimizerStep(at=at(next(rows)), optimizer=optimizer),
        ]
    return [
        *found,
        Backward(at=at(next(rows)), loss=LOSS, scalers=(), made_in=HALF, inside=None),
        LossComputed(at=at(next(rows)), loss="cross_entropy", wants="logits", got=None),
        LossComputed(at=at(next(rows)), loss="cross_entropy", wants="logits", got="softmax"),
        LostSight(at=at(next(rows)), objects=frozenset({SCALER.key})),
    ]


def step_of(chance: random.Random, events: Sequence[Event]) -> list[Event]:
    """An iteration: a correct one, or one with something left out, put in or out of order."""
    by = {
        (type(each), getattr(each, "scaler", None), getattr(each, "optimizer", None)): each
        for each in events
    }
    optimizer = chance.choice([SGD, ADAM])
    clips = [e for e in events if isinstance(e, GradientsClipped) and e.optimizers == (optimizer,)]
    found = [
        by[GradientsZeroed, None, optimizer],
        by[LossScaled, SCALER, None],
        next(e for e in events if isinstance(e, Backward) and e.scalers == (SCALER,)),
        by[Unscaled, SCALER, optimizer],
        *clips,
        by[ScalerStep, SCALER, optimizer],
        by[ScalerUpdate, SCALER, None],
    ]
    for _ in range(chance.choice([0, 0, 1, 2])):
        place = chance.randrange(len(found))
        if chance.random() < 0.5 and len(found) > 1:
            del found[place]
        else:
            found.insert(place, chance.choice(events))
    return found


def stream(seed: int) -> Iterator[Event]:
    """Iterations that come again a number of times, now and then broken off."""
    chance, events = random.Random(seed), alphabet()
    yield ScalerMade(at=at(100), scaler=SCALER)
    steps = [step_of(chance, events) for _ in range(3)]
    for _ in range(8):
        for _ in range(chance.choice([1, 2, 3, 5, 9])):
            yield from steps[0]
            if chance.random() < 0.1:
                yield chance.choice(events)
        yield from steps[0][: chance.randrange(len(steps[0]) + 1)]
        steps = [*steps[1:], step_of(chance, events) if chance.random() < 0.5 else steps[0]]


def again(event: Event) -> Event:
    """The same once more, as another object."""
    return replace(event)


def said(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return list(dict.fromkeys(verdicts))


@pytest.mark.parametrize("seed", range(60))
def test_the_verdicts_are_those_of_machines_that_are_fed_everything(seed: int) -> None:
    judges, plain = Judges(machines()), machines()
    ours: list[Verdict] = []
    theirs: list[Verdict] = []
    for event in stream(seed):
        ours += judges.feed(again(event))
        for machine in plain:
            if issubclass(type(event), machine.takes):
                theirs += machine.feed(again(event))
        assert said(ours) == said(theirs)
    assert settle(said(ours)) == settle(said(theirs))


@pytest.mark.parametrize("seed", range(60))
def test_an_event_that_need_not_be_made_changes_no_verdict(seed: int) -> None:
    judges, plain = Judges(machines()), machines()
    ours: list[Verdict] = []
    theirs: list[Verdict] = []
    for event in stream(seed):
        way = type(event), event.at.start.row, {"event": repr(event)}
        if not judges.repeats(way):
            ours += judges.feed(again(event), way)
        for machine in plain:
            if issubclass(type(event), machine.takes):
                theirs += machine.feed(again(event))
        assert said(ours) == said(theirs)


def test_events_of_a_step_that_comes_again_are_not_made() -> None:
    judges, made = Judges(machines()), 0
    step = step_of(random.Random(3), alphabet())
    for _ in range(100):
        for number, each in enumerate(step):
            if not judges.repeats((type(each), number)):
                made += 1
                judges.feed(again(each), (type(each), number))
    assert made <= 8 * len(step)
    judges.others()
    assert not judges.repeats((type(step[0]), 0))  # threads know of each other: all is fed


class Counting:
    """Machines that are counted as they are fed."""

    def __init__(self) -> None:
        self.fed = 0
        self.machines = machines()
        for machine in self.machines[:1]:
            kind = type(machine)
            counted = type(kind.__name__, (kind,), {"__slots__": (), "feed": self._counted(kind)})
            self.machines[0] = counted()

    def _counted(self, kind: type) -> object:
        def feed(machine: object, event: Event) -> Iterator[Verdict]:
            self.fed += 1
            return kind.feed(machine, event)  # type: ignore[attr-defined, no-any-return]

        return feed


def test_a_step_that_comes_again_is_not_fed_again() -> None:
    counting, events = Counting(), alphabet()
    judges = Judges(counting.machines)
    step = step_of(random.Random(3), events)
    assert [type(each).__name__ for each in step].count("ScalerUpdate") == 1
    for _ in range(100):
        for each in step:
            judges.feed(again(each))
    few = counting.fed
    assert few <= 6 * len(step)
    lost = next(each for each in events if isinstance(each, LostSight))
    judges.feed(step[0])
    judges.feed(lost)  # what came before it is made good
    assert few + 2 >= counting.fed > few


def test_threads_know_what_is_said_once_of_an_object() -> None:
    """What one thread learns may change what another one is told: then all is fed."""
    counting, events = Counting(), alphabet()
    judges = Judges(counting.machines)
    step = step_of(random.Random(3), events)
    judges.others()
    for _ in range(20):
        for each in step:
            judges.feed(again(each))
    assert counting.fed >= 20 * (len(step) - 2)

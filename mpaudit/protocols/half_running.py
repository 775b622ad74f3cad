"""Counters, running sums and moving averages in 16 bits: they stop moving."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import (
    Backward,
    Event,
    Forward,
    GradientsApplied,
    HalfAdded,
    HalfAverageMoved,
    HalfMetricMade,
    LossComputed,
    TapeGradient,
)
from mpaudit.finding import Problem
from mpaudit.protocols.protocol import Broken, Protocol, Verdict

RULE = "half-accumulator"
STUCK = {
    "float16": "float16 counts to 2048 and no further: 2048 + 1 is 2048, and a sum of losses of 0.4 "
    "stands still at 1024",
    "bfloat16": "bfloat16 counts to 256 and no further: 256 + 1 is 256, and a sum of losses of 0.4 "
    "stands still at 128",
}
STEPS = {"float16": "1/2048", "bfloat16": "1/256"}
"""What a number must at least change by, relative to itself, to change at all."""


class HalfRunningProtocol(Protocol):
    """MP306.

    State: (number, place of an addition) -> whether the model ran since. An addition that comes again
    after the model ran is one of every step, and not one of a few terms of a loss.
    """

    __slots__ = ()

    takes = (
        HalfAdded,
        HalfAverageMoved,
        HalfMetricMade,
        Forward,
        LossComputed,
        Backward,
        TapeGradient,
        GradientsApplied,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        if isinstance(event, HalfAdded):
            key = (event.root, event.at)
            if event.repeated or self.state.get(key):
                yield _stuck(event)
            else:
                self.state[key] = False
        elif isinstance(event, HalfAverageMoved):
            yield _still(event)
        elif isinstance(event, HalfMetricMade):
            yield _miscounting(event)
        elif self.state:
            self.state.update(dict.fromkeys(self.state, True))


def _stuck(event: HalfAdded) -> Broken:
    name = event.tensor.text or "a number"
    return Broken(
        Problem(
            RULE,
            event.at,
            f"`{name}` is {event.dtype}, and every step adds to it",
            STUCK[event.dtype],
            event.because,
            (("tensor", name),),
        ),
        grounded=True,
    )


def _miscounting(event: HalfMetricMade) -> Broken:
    counts = {"float16": "2048", "bfloat16": "256"}[event.dtype]
    return Broken(
        Problem(
            RULE,
            event.at,
            f"`{event.metric}` counts and adds up in {event.dtype}",
            f"{event.dtype} counts to {counts} and no further: what is added to a larger number, one by one, "
            "is lost",
            (),
            (("tensor", event.metric), ("metric", "yes")),
        ),
        grounded=True,
    )


def _still(event: HalfAverageMoved) -> Broken:
    return Broken(
        Problem(
            RULE,
            event.at,
            f"a moving average of parameters is kept in {event.dtype}, and takes steps of "
            f"{event.share:.2g}",
            f"a {event.dtype} number changes by {STEPS[event.dtype]} of itself or not at all: unless a "
            f"parameter is off by more than {event.share:.2g} can bridge, its average never moves",
            event.because,
            (("tensor", event.tensor.text), ("average", "yes")),
        ),
        grounded=True,
    )

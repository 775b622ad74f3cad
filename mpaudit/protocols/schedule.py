"""The learning rate schedule: it moves on after the optimizer's step, not before it."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import (
    Backward,
    Event,
    LostSight,
    OptimizerStep,
    Ref,
    ScalerStep,
    SchedulerStep,
)
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

RULE = "scheduler-before-step"
HEEDLESS = "scheduler-ignores-skipped-step"


class ScheduleProtocol(Protocol):
    """MP116 and MP803 (advice).

    State: ("stepped", optimizer) -> True; ("early", optimizer) -> the first SchedulerStep, if it came
    before any step; ("ahead", optimizer) -> a SchedulerStep since the last backward; "open" -> True
    from a backward until a step; ("scaled", optimizer) -> its last ScalerStep.
    """

    __slots__ = ()

    takes = (Backward, SchedulerStep, ScalerStep, OptimizerStep, LostSight)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        match event:
            case Backward():
                self._forget_ahead()
                self.state["open"] = True
            case SchedulerStep():
                yield from self._scheduled(event)
                step = self.state.get(("scaled", event.optimizer))
                if event.beside and isinstance(step, ScalerStep):
                    yield _heedless(event, step)
            case ScalerStep():
                self.state[("scaled", event.optimizer)] = event
                ahead = self.state.pop(("ahead", event.optimizer), None)
                if isinstance(ahead, SchedulerStep):
                    yield _early(ahead, event)
                self._stepped(event.optimizer)
            case OptimizerStep():
                self._stepped(event.optimizer)
            case LostSight():
                for key in list(self.state):
                    if isinstance(key, tuple) and isinstance(key[1], Ref):
                        if key[1].key in event.objects:
                            del self.state[key]
                            self.state[("stepped", key[1])] = True

    def _forget_ahead(self) -> None:
        for key in [k for k in self.state if isinstance(k, tuple) and k[0] == "ahead"]:
            del self.state[key]

    def _stepped(self, optimizer: Ref) -> None:
        self.state.pop("open", None)
        self.state[("stepped", optimizer)] = True

    def _scheduled(self, event: SchedulerStep) -> Iterator[Verdict]:
        optimizer = event.optimizer
        stepped = ("stepped", optimizer) in self.state
        early = self.state.get(("early", optimizer))
        if "open" in self.state:
            self.state[("ahead", optimizer)] = event
        elif isinstance(early, SchedulerStep):
            if stepped and early.at == event.at:
                yield _early(event, None)
        elif stepped:
            yield Kept(RULE, event.at)
        else:
            self.state[("early", optimizer)] = event


def _early(event: SchedulerStep, step: ScalerStep | None) -> Broken:
    return Broken(
        Problem(
            RULE,
            event.at,
            f"`{event.scheduler.text}.step()` comes before the step of its optimizer",
            "the first learning rate of the schedule is never used, and PyTorch warns",
            () if step is None else (Related(step.at, "the optimizer is stepped only here"),),
            (("scheduler", event.scheduler.text),),
        )
    )


def _heedless(event: SchedulerStep, step: ScalerStep) -> Broken:
    return Broken(
        Problem(
            HEEDLESS,
            event.at,
            f"`{event.scheduler.text}.step()` moves on even where `{step.scaler.text}` has skipped the step",
            "every overflow costs the schedule a step: it ends early, and warms up faster than it says",
            (Related(step.at, "this skips the optimizer where a gradient is not finite"),),
            (("scheduler", event.scheduler.text), ("scaler", step.scaler.text)),
        )
    )

"""Gradients that are stepped with a second time."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import (
    Backward,
    Event,
    GradientsClipped,
    GradientsZeroed,
    LostSight,
    OptimizerStep,
    ScalerStep,
    ScalerUpdate,
)
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

RULE = "update-before-step"


class RepeatedStepProtocol(Protocol):
    """MP107, where an update stands between two steps with the gradients of one backward pass.

    State: "fresh" -> True from a backward of a scaled loss; ("stepped", optimizer) -> the step since;
    ("spent", optimizer) -> the same, once its scaler was updated.
    """

    __slots__ = ()

    takes = (
        Backward,
        GradientsZeroed,
        GradientsClipped,
        ScalerStep,
        OptimizerStep,
        ScalerUpdate,
        LostSight,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event; what else touches gradients ends what is known of them."""
        match event:
            case ScalerStep():
                yield from self._step(event)
            case ScalerUpdate():
                for key, step in list(self.state.items()):
                    if isinstance(step, ScalerStep) and step.scaler == event.scaler:
                        del self.state[key]
                        self.state[("spent", step.optimizer)] = step
            case Backward():
                self.state.clear()
                if event.scalers and not event.idle:
                    self.state["fresh"] = True
            case GradientsClipped() if "fresh" in self.state:
                self.state = {"fresh": True}
            case _:
                self.state.clear()

    def _step(self, event: ScalerStep) -> Iterator[Verdict]:
        spent = self.state.pop(("spent", event.optimizer), None)
        if isinstance(spent, ScalerStep):
            if spent.scaler == event.scaler and spent.at != event.at and not event.edited:
                yield _again(spent, event)
        elif "fresh" in self.state and event.closure is None:
            if ("stepped", event.optimizer) not in self.state:  # else the scaler itself refuses it
                yield Kept(RULE, event.at)
            self.state[("stepped", event.optimizer)] = event


def _again(before: ScalerStep, event: ScalerStep) -> Broken:
    scaler, optimizer = event.scaler.text, event.optimizer.text
    return Broken(
        Problem(
            RULE,
            event.at,
            f"`{scaler}.step({optimizer})` steps again with the gradients that it has stepped with",
            "they are divided by the scale once more, and momentum or Adam's averages make a second step "
            "of almost the same size from it",
            (Related(before.at, "stepped with these gradients here"),),
            (("scaler", scaler), ("optimizer", optimizer)),
        )
    )

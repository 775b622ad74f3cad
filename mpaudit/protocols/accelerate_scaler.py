"""A GradScaler of the script's own beside the one that Accelerate has."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import (
    Accelerated,
    AcceleratorBackward,
    Event,
    LostSight,
    OptimizerStep,
    PlainBackward,
    Prepared,
    PreparedStep,
    Ref,
    ScalerMade,
    ScalerStep,
    Unscaled,
)
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

RULE = "accelerate-with-grad-scaler"
RAISES = 'it raises "Attempted step but _scale is None": that scaler has never scaled a loss'


class AccelerateScalerProtocol(Protocol):
    """MP603.

    State: "backward" -> the last backward since a step; "unscaled" -> True once the script's own
    scaler has unscaled since. Facts: ("made", scaler) -> where; ("prepared", optimizer) -> Accelerated.
    """

    __slots__ = ()

    takes = (
        ScalerMade,
        Prepared,
        AcceleratorBackward,
        PlainBackward,
        Unscaled,
        ScalerStep,
        PreparedStep,
        OptimizerStep,
        LostSight,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        backward = self.state.get("backward")
        match event:
            case ScalerMade():
                self.facts[("made", event.scaler)] = event.at
            case Prepared():
                self.facts[("prepared", event.prepared)] = event.accelerator
            case AcceleratorBackward() | PlainBackward():
                self.state["backward"] = event
                self.state.pop("unscaled", None)
            case Unscaled() if backward is not None:
                self.state["unscaled"] = True
            case ScalerStep():
                yield from self._scaler_step(event, backward)
                self.state.clear()
            case PreparedStep():
                if isinstance(backward, (AcceleratorBackward, PlainBackward)):
                    if backward.scalers and "unscaled" not in self.state:
                        yield self._applied(event, backward)
                self.state.clear()
            case OptimizerStep():
                self.state.clear()
            case LostSight() if isinstance(backward, (AcceleratorBackward, PlainBackward)):
                involved = {each.key for each in backward.scalers}
                if backward.accelerator is not None:
                    involved.add(backward.accelerator.ref.key)
                if involved & event.objects:
                    self.state.clear()

    def _scaler_step(self, event: ScalerStep, backward: object) -> Iterator[Verdict]:
        accelerator = self.facts.get(("prepared", event.optimizer))
        if isinstance(backward, AcceleratorBackward):
            if not backward.scalers:
                yield self._broken(event, event.scaler, RAISES, backward.at)
            elif _owns(backward.accelerator):
                yield self._broken(event, event.scaler, _twice(backward.accelerator), backward.at)
        elif isinstance(accelerator, Accelerated) and _owns(accelerator):
            yield self._broken(event, event.scaler, _stepped_twice(accelerator), None)
        else:
            yield Kept(RULE, self._place(event, event.scaler))

    def _applied(
        self, event: PreparedStep, backward: AcceleratorBackward | PlainBackward
    ) -> Broken:
        return self._broken(
            event,
            backward.scalers[-1],
            "the gradients are applied 65536 times too large (at the initial scale), or Accelerate's own "
            'scaler raises "Attempted step but _scale is None"',
            backward.at,
        )

    def _place(self, event: Event, scaler: Ref) -> Span:
        made = self.facts.get(("made", scaler))
        return made if isinstance(made, Span) else event.at

    def _broken(self, event: Event, scaler: Ref, consequence: str, backward: Span | None) -> Broken:
        place = self._place(event, scaler)
        related = [Related(backward, "the gradients are made here")] if backward else []
        if place != event.at:
            related.append(Related(event.at, "and stepped here"))
        return Broken(
            Problem(
                RULE,
                place,
                "this GradScaler stands beside an Accelerator, which scales the losses itself",
                consequence,
                tuple(related),
            )
        )


def _owns(accelerator: Accelerated) -> bool:
    """Whether the script has the accelerator scale: it says so, or takes the precision from a flag."""
    return accelerator.scales is True or (accelerator.scales is None and accelerator.chosen)


def _twice(accelerator: Accelerated) -> str:
    when = "" if accelerator.scales else "in fp16 "
    return (
        f"{when}the loss is multiplied by both scales, 4 294 967 296 together at the beginning: the "
        "gradients overflow, and the steps are skipped"
    )


def _stepped_twice(accelerator: Accelerated) -> str:
    when = "" if accelerator.scales else "in fp16 "
    return (
        f"{when}the prepared optimizer steps through the Accelerator's own scaler, which has never scaled a "
        'loss: it raises "Attempted step but _scale is None"'
    )

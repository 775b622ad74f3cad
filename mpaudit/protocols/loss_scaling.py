"""Several losses, several scalers: each loss is scaled once, by the scaler that steps."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from mpaudit.event import (
    Backward,
    Event,
    GradientsZeroed,
    LossScaled,
    LostSight,
    OptimizerStep,
    Ref,
    ScalerMade,
    ScalerStep,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

RULE = "inconsistent-loss-scaling"


class _Phase(Struct, frozen=True):
    """The backward passes since the last step, by whether their loss was scaled."""

    scaled: tuple[Backward, ...] = ()
    plain: tuple[Backward, ...] = ()
    unscaled: bool = False
    unsure: bool = False
    closed: bool = False


class LossScalingProtocol(Protocol):
    """MP125.

    State: "phase" -> _Phase; ("pending", scaler) -> True from a backward of a loss that it scaled
    until its update. Facts: ("made", scaler) -> True, if it is seen where the scaler comes from;
    ("called", text, scaler) -> True, if it has scaled under that name.
    """

    __slots__ = ()

    takes = (
        ScalerMade,
        LossScaled,
        Backward,
        Unscaled,
        GradientsZeroed,
        ScalerStep,
        OptimizerStep,
        ScalerUpdate,
        LostSight,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        phase = self.state.get("phase")
        phase = phase if isinstance(phase, _Phase) else _Phase()
        match event:
            case ScalerMade():
                self.facts[("made", event.scaler)] = True
            case LossScaled():
                self.facts[("called", event.scaler.text, event.scaler)] = True
                if event.before:
                    yield _twice(event)
            case Backward():
                self.state["phase"] = _with_backward(_Phase() if phase.closed else phase, event)
                for scaler in event.scalers or ():
                    self.state[("pending", scaler)] = True
            case Unscaled() if phase.scaled:
                self.state["phase"] = replace(phase, unscaled=True)
            case GradientsZeroed():
                self.state.pop("phase", None)
            case ScalerStep():
                yield from self._step(event, phase)
            case OptimizerStep():
                self.state.pop("phase", None)
                yield from (Kept(RULE, backward.at) for backward in phase.plain)
            case ScalerUpdate():
                self.state.pop(("pending", event.scaler), None)
            case LostSight():
                self._lost(event, phase)

    def _step(self, event: ScalerStep, phase: _Phase) -> Iterator[Verdict]:
        scalers = {scaler for backward in phase.scaled for scaler in backward.scalers or ()}
        if not phase.unsure and not phase.closed:
            if event.scaler in scalers:
                for backward in phase.plain:
                    yield _left_out(backward, phase.scaled[-1], event)
            elif scalers and not phase.plain and self._by_another(event.scaler, scalers):
                yield _by_another(phase.scaled[-1], event)
        self.state["phase"] = replace(phase, closed=True)

    def _by_another(self, scaler: Ref, scalers: set[Ref]) -> bool:
        """Whether a scaler that is stepped is certainly none of those that scaled the losses.

        Under one name there is one of them: which of several it is, was forgotten where paths were joined.
        """
        if any(("called", scaler.text, each) in self.facts for each in scalers):
            return False
        known = all(("made", each) in self.facts for each in (scaler, *scalers))
        return known and ("pending", scaler) not in self.state

    def _lost(self, event: LostSight, phase: _Phase) -> None:
        refs = [b.loss for b in (*phase.scaled, *phase.plain)]
        refs += [scaler for backward in phase.scaled for scaler in backward.scalers or ()]
        if any(ref.key in event.objects for ref in refs):
            self.state.pop("phase", None)


def _with_backward(phase: _Phase, event: Backward) -> _Phase:
    if event.scalers is None or event.idle:
        return replace(phase, unsure=True)
    if event.scalers:
        others = tuple(b for b in phase.scaled if b.at != event.at)
        return replace(phase, scaled=(*others, event))
    if phase.unscaled:  # what is added to unscaled gradients must not be scaled
        return phase
    others = tuple(b for b in phase.plain if b.at != event.at)
    return replace(phase, plain=(*others, event))


def _twice(event: LossScaled) -> Broken:
    scaler = event.scaler.text
    again = event.scaler in event.before
    return Broken(
        Problem(
            RULE,
            event.at,
            f"the loss is scaled a second time{'' if again else ', by another scaler'}",
            "the update is 65536 times too large (at the initial scale), and float16 gradients "
            "overflow: the scale falls until the steps are no longer skipped",
            (),
            (("scaler", scaler), ("loss", event.loss.text)),
        )
    )


def _left_out(backward: Backward, scaled: Backward, event: ScalerStep) -> Broken:
    scaler, loss = event.scaler.text, backward.loss.text
    return Broken(
        Problem(
            RULE,
            backward.at,
            f"`{loss}.backward()` runs on an unscaled loss, next to one that `{scaler}` has scaled",
            "this loss counts 65536 times too little (at the initial scale): it is as good as not there",
            (
                Related(scaled.at, "this loss is scaled"),
                Related(event.at, "the gradients of both are divided by the scale here"),
            ),
            (("scaler", scaler), ("optimizer", event.optimizer.text), ("loss", loss)),
        )
    )


def _by_another(backward: Backward, event: ScalerStep) -> Broken:
    scaler, optimizer = event.scaler.text, event.optimizer.text
    return Broken(
        Problem(
            RULE,
            event.at,
            f"`{scaler}` steps `{optimizer}`, but it is another scaler that scaled the loss",
            "the gradients are divided by another scale than they were multiplied by, and the scaler "
            "that scaled them never hears of an overflow",
            (Related(backward.at, "the gradients of the scaled loss are made here"),),
            (("scaler", scaler), ("optimizer", optimizer)),
        )
    )

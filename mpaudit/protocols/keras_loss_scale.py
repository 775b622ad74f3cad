"""Loss scaling in a training loop on Keras: wrap the optimizer, scale the loss, or neither."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mpaudit.event import (
    Event,
    GradientsApplied,
    LayerMade,
    LossComputed,
    ModelMade,
    PolicySet,
    Ref,
    TapeGradient,
)
from mpaudit.finding import Problem, Related
from mpaudit.protocols.keras_model import KerasProtocol
from mpaudit.protocols.protocol import Broken, Kept, Verdict

UNWRAPPED = "the optimizer is built here, without loss scaling"
TAKEN = "the gradients are taken here, of a loss that is not scaled"


class KerasLossScaleProtocol(KerasProtocol):
    """MP503 and MP504.

    Facts, besides the books: ("tape", gradients) -> how they were taken; ("loss", layer) -> True where a
    loss was computed from what left that layer.
    """

    __slots__ = ()

    takes = (
        PolicySet,
        LayerMade,
        ModelMade,
        LossComputed,
        TapeGradient,
        GradientsApplied,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        yield from self.observe(event)
        match event:
            case LossComputed(output=output) if output is not None:
                self.facts[("loss", output)] = True
            case TapeGradient():
                self.facts[("tape", event.gradients)] = replace(event, moment=None)
            case GradientsApplied():
                tape = self.facts.get(("tape", event.gradients))
                if isinstance(tape, TapeGradient) and tape.at != event.at:
                    yield from self._applied(event, tape)

    def _applied(self, event: GradientsApplied, tape: TapeGradient) -> Iterator[Verdict]:
        models = tuple(ref for ref in (tape.model, *tape.others) if ref is not None)
        unscaled = tape.scaled_by == ()
        if event.scales is not False or not unscaled:
            yield Kept("keras-loop-without-loss-scaling", event.at)
        elif self._mixed(*models):
            if self.overdue(*models) is not None:
                self.promise("keras-loop-without-loss-scaling", event.at)
            yield _loop_without_loss_scaling(event, tape, self._subjects(event, models))
        if event.scales is None or tape.scaled_by is None or event.optimizer in tape.scaled_by:
            yield Kept("missing-scale-loss", event.at)
        elif event.scales and unscaled:
            yield _missing_scale_loss(event, tape, self._subjects(event, models))

    def _mixed(self, *models: Ref) -> bool:
        late = self.overdue(*models)
        if late is not None:
            return late.policy == "mixed_float16"
        layers = self.layers(*models).values()
        return any(layer.own is None and layer.under == "mixed_float16" for layer in layers)

    def _subjects(
        self, event: GradientsApplied, models: tuple[Ref, ...]
    ) -> tuple[tuple[str, str], ...]:
        found = [("optimizer", event.optimizer.text)]
        for ref, layer in self.layers(*models).items():
            if ("loss", ref) in self.facts:
                found.append(("output", str(layer.at)))
        return tuple(found)


def _related(event: GradientsApplied, tape: TapeGradient) -> tuple[Related, ...]:
    made = (Related(event.made, UNWRAPPED),) if event.made and event.scales is False else ()
    return (*made, Related(tape.at, TAKEN))


def _loop_without_loss_scaling(
    event: GradientsApplied, tape: TapeGradient, subjects: tuple[tuple[str, str], ...]
) -> Broken:
    return Broken(
        Problem(
            "keras-loop-without-loss-scaling",
            event.at,
            f"the loop applies float16 gradients with a plain optimizer: `{event.optimizer.text}` is no "
            "LossScaleOptimizer",
            "gradients below 6e-8 become zero in float16, and one overflow is applied to the weights instead "
            "of being skipped; only `compile` and `fit` add loss scaling by themselves",
            _related(event, tape),
            subjects,
        )
    )


def _missing_scale_loss(
    event: GradientsApplied, tape: TapeGradient, subjects: tuple[tuple[str, str], ...]
) -> Broken:
    return Broken(
        Problem(
            "missing-scale-loss",
            event.at,
            f"`{event.optimizer.text}` divides the gradients by the loss scale, but the loss was never "
            "multiplied by it",
            "every update is 32768 times too small at the initial scale: SGD stands still, Adam hides it",
            _related(event, tape),
            subjects,
        )
    )

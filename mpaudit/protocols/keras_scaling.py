"""Loss scaling of Keras in balance: what is scaled once is unscaled once, before it is clipped."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import (
    Event,
    GradientsApplied,
    LegacyScaling,
    OptimizerWrapped,
    Ref,
    TapeGradient,
    TapeGradientsClipped,
    TapeGradientsUnscaled,
)
from mpaudit.protocols.keras_scaling_problems import (
    applied_by_another_scale,
    clip_scaled_gradients,
    legacy_loss_scale_api,
    missing_gradient_unscale,
    nested_loss_scaling,
    unbalanced_loss_scaling,
)
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict
from mpaudit.protocols.tape import Handled, follow, handled

UNSCALE, CLIP, DOUBLE = "missing-gradient-unscale", "clip-scaled-gradients", "double-loss-scaling"


class KerasScalingProtocol(Protocol):
    """MP505, MP506, MP508 and MP518.

    Facts: ("tape", gradients) -> how they were handled; ("waiting", optimizer) -> gradients that were
    scaled by it and not applied yet; ("stale", optimizer) -> those of them that were there when it
    applied others, and so may have changed its scale; ("applied", optimizer) -> where it did. Gradients
    are others in every pass through a loop, so that these need not keep paths apart.
    """

    __slots__ = ()

    takes = (
        TapeGradient,
        TapeGradientsUnscaled,
        TapeGradientsClipped,
        GradientsApplied,
        OptimizerWrapped,
        LegacyScaling,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        follow(event, self.facts)
        match event:
            case TapeGradient():
                for optimizer in dict.fromkeys(event.scaled_by or ()):
                    self._put(
                        "waiting", optimizer, (*self._get("waiting", optimizer), event.gradients)
                    )
            case OptimizerWrapped(nested=True, by_hand=True):
                yield Broken(nested_loss_scaling(event))
            case LegacyScaling():
                yield Broken(legacy_loss_scale_api(event))
            case TapeGradientsUnscaled():
                known = handled(self.facts, event.gradients)
                if known is not None and known.taken.scaled_by is not None:
                    for step in known.clipped_scaled:
                        yield Broken(clip_scaled_gradients(step, event, known))
            case GradientsApplied():
                known = handled(self.facts, event.gradients)
                if known is not None:
                    yield from self._applied(event, known)

    def _applied(self, event: GradientsApplied, known: Handled) -> Iterator[Verdict]:
        scaled, undone = known.taken.scaled_by, len(known.unscaled)
        if scaled is None or _unknown(event):
            yield Kept(UNSCALE, event.at)
            yield Kept(DOUBLE, event.at)
            yield from (Kept(CLIP, step.at) for step in known.clipped_scaled)
            return
        divides = undone + bool(event.scales and event.keras == 3)
        if not scaled:
            return
        if not divides:
            yield Broken(missing_gradient_unscale(event, known.taken))
            return
        yield Kept(UNSCALE, event.at)
        if len(set(scaled)) == 1 and len(scaled) != divides:
            yield Broken(unbalanced_loss_scaling(event, known, divides))
            return
        clipped = known.clipped_scaled if event.optimizer in scaled or undone else ()
        yield from (Broken(clip_scaled_gradients(step, event, known)) for step in clipped)
        for step in known.steps:
            if isinstance(step, TapeGradientsClipped) and step not in clipped:
                yield Kept(CLIP, step.at)
        if event.keras == 3:
            yield from self._turn(event, known.taken)
        else:
            self._put("waiting", event.optimizer, ())

    def _turn(self, event: GradientsApplied, taken: TapeGradient) -> Iterator[Verdict]:
        """The optimizer of Keras 3 may change its scale as it applies gradients."""
        optimizer, gradients = event.optimizer, taken.gradients
        if taken.at == event.at:
            return
        if gradients in self._get("stale", optimizer):
            yield Broken(applied_by_another_scale(event, self.facts.get(("applied", optimizer))))
        waiting = tuple(each for each in self._get("waiting", optimizer) if each != gradients)
        self._put("waiting", optimizer, ())
        self._put("stale", optimizer, waiting)
        self.facts[("applied", optimizer)] = event.at

    def _get(self, name: str, optimizer: Ref) -> tuple[Ref, ...]:
        known = self.facts.get((name, optimizer))
        return known if isinstance(known, tuple) else ()

    def _put(self, name: str, optimizer: Ref, gradients: tuple[Ref, ...]) -> None:
        self.facts[(name, optimizer)] = gradients


def _unknown(event: GradientsApplied) -> bool:
    """Whether it is not known what applying does: of Keras 2 it leaves the gradients as they are."""
    return event.keras != 2 and (event.scales is None or (event.scales and event.keras is None))

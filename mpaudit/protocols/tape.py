"""The way of gradients from a Keras tape to the optimizer, one step after the other."""

from __future__ import annotations

from collections.abc import Hashable, MutableMapping

from msgspec import Struct
from msgspec.structs import replace

from mpaudit.event import Event, Ref, TapeGradient, TapeGradientsClipped, TapeGradientsUnscaled

Step = TapeGradientsUnscaled | TapeGradientsClipped


class Handled(Struct, frozen=True):
    """Gradients: how they were taken, and what was done to them since, in order."""

    taken: TapeGradient
    steps: tuple[Step, ...] = ()

    @property
    def unscaled(self) -> tuple[TapeGradientsUnscaled, ...]:
        """How they were divided by the loss scale again."""
        return tuple(each for each in self.steps if isinstance(each, TapeGradientsUnscaled))

    @property
    def clipped_scaled(self) -> tuple[TapeGradientsClipped, ...]:
        """How they were clipped while they were still scaled, if the loss was."""
        times = len(self.taken.scaled_by or ())
        found, undone = [], 0
        for step in self.steps:
            if isinstance(step, TapeGradientsUnscaled):
                undone += 1
            elif undone < times:
                found.append(step)
        return tuple(found)


def follow(event: Event, facts: MutableMapping[Hashable, Hashable]) -> None:
    """Enter what happens to gradients: ("tape", gradients) -> Handled."""
    match event:
        case TapeGradient():
            facts[("tape", event.gradients)] = Handled(event)
        case TapeGradientsUnscaled() | TapeGradientsClipped():
            before = facts.get(("tape", event.gradients))
            if isinstance(before, Handled):
                steps = (*before.steps, event)
                facts[("tape", event.result)] = replace(before, steps=steps)


def handled(facts: MutableMapping[Hashable, Hashable], gradients: Ref | None) -> Handled | None:
    """What is known of gradients."""
    known = facts.get(("tape", gradients))
    return known if isinstance(known, Handled) else None

"""Gradients that are looked at while they still carry the loss scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mpaudit.event import (
    Backward,
    Event,
    GradientRead,
    GradientsZeroed,
    LostSight,
    Ref,
    ScaleAsked,
    ScalerStep,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

IDLE = "idle"
"""The gradients of a loss that went through a scaler that is switched off: no evidence of anything."""
RULE = "scaled-gradient-read"


@dataclass(frozen=True, slots=True)
class _Gradients:
    """The gradients that are there: made by `backward`, scaled by `scalers`, read by `reads`.

    `free` says that nobody can tell any more whether they are scaled.
    """

    backward: Span
    scalers: tuple[Ref, ...]
    unscaled: frozenset[Ref] = frozenset()
    reads: tuple[GradientRead, ...] = ()
    free: bool = False


class GradientReadProtocol(Protocol):
    """MP115. State: "gradients" -> _Gradients from a scaled backward to the step.

    A read is judged by the step: until then the value may still be divided by the scale.
    """

    __slots__ = ()

    takes = (
        Backward,
        Unscaled,
        GradientRead,
        ScaleAsked,
        ScalerStep,
        ScalerUpdate,
        GradientsZeroed,
        LostSight,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        if isinstance(event, Backward):
            self._backward(event)
            return
        now = self.state.get("gradients")
        if not isinstance(now, _Gradients):
            if isinstance(event, GradientRead) and now != IDLE:
                yield Kept(RULE, event.at)
            elif isinstance(event, GradientsZeroed):
                self.state.pop("gradients", None)
            return
        match event:
            case GradientRead():
                if now.free or (now.unscaled and not _scaled(event, now)):
                    yield Kept(RULE, event.at)
                elif not now.unscaled and event not in now.reads:
                    self.state["gradients"] = replace(now, reads=(*now.reads, event))
            case Unscaled(optimizer=Ref() as optimizer):
                self.state["gradients"] = replace(now, unscaled=now.unscaled | {optimizer})
            case Unscaled() | ScaleAsked():
                self.state["gradients"] = replace(now, free=True, reads=())
            case LostSight():
                if event.objects & {ref.key for ref in now.scalers}:
                    self.state["gradients"] = replace(now, free=True, reads=())
            case ScalerStep() | ScalerUpdate():
                del self.state["gradients"]
                for read in now.reads:
                    yield _problem(read, now, event)
            case GradientsZeroed():
                del self.state["gradients"]

    def _backward(self, event: Backward) -> None:
        before = self.state.get("gradients")
        if event.idle:
            self.state["gradients"] = IDLE
        elif not event.scalers:
            self.state.pop("gradients", None)
        elif not isinstance(before, _Gradients):
            self.state["gradients"] = _Gradients(event.at, event.scalers)


def _scaled(read: GradientRead, now: _Gradients) -> bool:
    return read.optimizers is not None and not now.unscaled & set(read.optimizers)


def _problem(read: GradientRead, now: _Gradients, step: Event) -> Broken:
    files = {now.backward.filename, step.at.filename}
    at = next((place for place in read.places if place.filename in files), read.at)
    related = [Related(now.backward, "the gradients of the scaled loss are made here")]
    if at != read.at:
        related.append(Related(read.at, "the gradients are read here"))
    related.append(Related(step.at, "they are divided by the scale here"))
    return Broken(
        Problem(
            RULE,
            at,
            f"`{read.how}` reads gradients that are still multiplied by the loss scale",
            "the value is 65536 times too large at the initial scale, and jumps by a factor of two "
            "whenever the scale does",
            tuple(related),
        )
    )

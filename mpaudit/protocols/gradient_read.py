"""Gradients that are looked at while they still carry the loss scale."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from mpaudit.event import (
    Accelerated,
    AcceleratorBackward,
    AcceleratorUnscaled,
    Backward,
    Event,
    GradientRead,
    GradientsZeroed,
    LostSight,
    PreparedStep,
    Ref,
    ScaleAsked,
    ScalerStep,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.accelerate_problems import under_fp16
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

IDLE = "idle"
"""The gradients of a loss that went through a scaler that is switched off: no evidence of anything."""
RULE = "scaled-gradient-read"


class _Gradients(Struct, frozen=True):
    """The gradients that are there: made by `backward`, scaled by `scalers`, read by `reads`.

    `free` says that nobody can tell any more whether they are scaled. `accelerator` is the one that has
    scaled them, without a scaler of the script's own.
    """

    backward: Span
    scalers: tuple[Ref, ...]
    unscaled: frozenset[Ref] = frozenset()
    reads: tuple[GradientRead, ...] = ()
    free: bool = False
    accelerator: Accelerated | None = None

    @property
    def involved(self) -> tuple[Ref, ...]:
        """What may unscale them where nobody can see it."""
        return self.scalers if self.accelerator is None else (self.accelerator.ref,)


class GradientReadProtocol(Protocol):
    """MP115. State: "gradients" -> _Gradients from a scaled backward to the step.

    A read is judged by the step: until then the value may still be divided by the scale.
    """

    __slots__ = ()

    takes = (
        Backward,
        AcceleratorBackward,
        Unscaled,
        AcceleratorUnscaled,
        GradientRead,
        ScaleAsked,
        ScalerStep,
        ScalerUpdate,
        PreparedStep,
        GradientsZeroed,
        LostSight,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        if isinstance(event, (Backward, AcceleratorBackward)):
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
            case AcceleratorUnscaled():  # what was read before was scaled
                self.state["gradients"] = replace(now, free=True)
            case Unscaled() | ScaleAsked():
                self.state["gradients"] = replace(now, free=True, reads=())
            case LostSight():
                if event.objects & {ref.key for ref in now.involved}:
                    self.state["gradients"] = replace(now, free=True, reads=())
            case PreparedStep() if (
                event.accelerator.scales is False
            ):  # as the script has asked since
                del self.state["gradients"]
            case ScalerStep() | ScalerUpdate() | PreparedStep():
                del self.state["gradients"]
                for read in now.reads:
                    yield _problem(read, now, event)
            case GradientsZeroed():
                del self.state["gradients"]

    def _backward(self, event: Backward | AcceleratorBackward) -> None:
        before = self.state.get("gradients")
        if isinstance(event, AcceleratorBackward):
            scaling = event.accelerator if _scaling(event.accelerator) else None
        elif event.idle:
            self.state["gradients"] = IDLE
            return
        else:
            scaling = None
        if not event.scalers and scaling is None:
            self.state.pop("gradients", None)
        elif not isinstance(before, _Gradients):
            self.state["gradients"] = _Gradients(
                event.at, event.scalers or (), accelerator=None if event.scalers else scaling
            )


def _scaling(accelerator: Accelerated) -> bool:
    """Whether an accelerator scales losses, or does so by an option of the script."""
    return accelerator.scales is not False and bool(accelerator.scales or accelerator.chosen)


def _scaled(read: GradientRead, now: _Gradients) -> bool:
    return read.optimizers is not None and not now.unscaled & set(read.optimizers)


def _problem(read: GradientRead, now: _Gradients, step: Event) -> Broken:
    files = {now.backward.filename, step.at.filename}
    at = next((place for place in read.places if place.filename in files), read.at)
    related = [Related(now.backward, "the gradients of the scaled loss are made here")]
    if at != read.at:
        related.append(Related(read.at, "the gradients are read here"))
    related.append(Related(step.at, "they are divided by the scale here"))
    condition = "" if now.accelerator is None else under_fp16(now.accelerator)
    return Broken(
        Problem(
            RULE,
            at,
            f"`{read.how}` reads gradients that are still multiplied by the loss scale",
            f"{condition}the value is 65536 times too large at the initial scale, and jumps by a factor of "
            "two whenever the scale does",
            tuple(related),
            (("accelerator", now.accelerator.text or "accelerator"),) if now.accelerator else (),
        )
    )

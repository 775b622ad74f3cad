"""Training on Hugging Face Accelerate: everything that touches gradients goes through it, or nothing does.

With `mixed_precision="fp16"` its `backward` scales the loss, its `clip_grad_norm_` and the step of a
prepared optimizer unscale the gradients. With several micro-batches its `backward` divides the loss, and
prepared optimizers step on the last one only.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from mpaudit.event import (
    Accelerated,
    AcceleratorBackward,
    AcceleratorUnscaled,
    Event,
    GradientsClipped,
    GradientsZeroed,
    LostSight,
    OptimizerStep,
    PlainBackward,
    Prepared,
    PreparedStep,
    Ref,
)
from mpaudit.protocols import accelerate_problems as problems
from mpaudit.protocols.accelerate_problems import BACKWARD, CLIP
from mpaudit.protocols.protocol import Kept, Protocol, Verdict


class _Phase(Struct, frozen=True):
    """The backward passes whose gradients are there, and what was done with them since."""

    scaled: tuple[AcceleratorBackward, ...] = ()
    raw: tuple[PlainBackward, ...] = ()
    unscaled: AcceleratorUnscaled | None = None
    closed: bool = False


class AccelerateProtocol(Protocol):
    """MP601 and MP602.

    State: "phase" -> _Phase. Facts: ("prepared", raw) -> True for what was given to `prepare()`.
    """

    __slots__ = ()

    takes = (
        Prepared,
        AcceleratorBackward,
        PlainBackward,
        AcceleratorUnscaled,
        GradientsClipped,
        PreparedStep,
        OptimizerStep,
        GradientsZeroed,
        LostSight,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        phase = self.state.get("phase")
        phase = phase if isinstance(phase, _Phase) else _Phase()
        begun = _Phase() if phase.closed else phase
        match event:
            case Prepared():
                self.facts[("prepared", event.raw)] = True
            case AcceleratorBackward():
                others = tuple(each for each in begun.scaled if each.at != event.at)
                self.state["phase"] = replace(begun, scaled=(*others, event), unscaled=None)
            case PlainBackward():
                left = tuple(each for each in begun.raw if each.at != event.at)
                self.state["phase"] = replace(begun, raw=(*left, event))
            case AcceleratorUnscaled():
                self.state["phase"] = replace(phase, unscaled=event)
            case GradientsClipped() if phase.scaled and not phase.closed:
                yield from self._clipped(event, phase)
            case PreparedStep():
                yield from _stepped(event, phase)
                self.state["phase"] = replace(phase, closed=True)
            case OptimizerStep():
                yield from self._raw_step(event, phase)
                if phase != _Phase():
                    self.state["phase"] = replace(phase, closed=True)
            case GradientsZeroed():
                self.state.pop("phase", None)
            case LostSight() if _involved(phase) & event.objects:
                self.state.pop("phase", None)

    def _clipped(self, event: GradientsClipped, phase: _Phase) -> Iterator[Verdict]:
        backward, owners = phase.scaled[-1], event.optimizers
        if owners is not None and not any(("prepared", each) in self.facts for each in owners):
            return
        if owners is None and phase.raw:
            return
        if phase.unscaled is not None or backward.accelerator.scales is False:
            yield Kept(CLIP, event.at, occasional=phase.unscaled is None)
        else:
            yield problems.raw_clip(event, backward)

    def _raw_step(self, event: OptimizerStep, phase: _Phase) -> Iterator[Verdict]:
        for raw in phase.raw:
            yield Kept(BACKWARD, raw.at)
        if not phase.scaled or phase.raw or phase.closed or phase.unscaled is not None:
            return
        backward = phase.scaled[-1]
        if ("prepared", event.optimizer) in self.facts and backward.accelerator.scales is not False:
            yield problems.raw_step(event, backward)


def _stepped(event: PreparedStep, phase: _Phase) -> Iterator[Verdict]:
    """A prepared optimizer steps: were its gradients made around the accelerator?"""
    accelerator = event.accelerator
    for raw in () if phase.closed else phase.raw:
        if raw.scalers or not _concerns(raw, event, alone=not phase.scaled):
            continue
        if accelerator.scales is False and accelerator.accumulates is False:
            yield Kept(BACKWARD, raw.at)
        else:
            yield problems.raw_backward(raw, event)


def _concerns(raw: PlainBackward, event: PreparedStep, *, alone: bool) -> bool:
    """Whether a loss belongs to what an optimizer steps; `alone` if no other loss can."""
    if not raw.models or event.models is None:
        return alone
    return not set(raw.models).isdisjoint(event.models)


def _involved(phase: _Phase) -> set[object]:
    accelerators: list[Accelerated] = [each.accelerator for each in phase.scaled]
    accelerators += [each.accelerator for each in phase.raw if each.accelerator is not None]
    refs: list[Ref] = [each.ref for each in accelerators]
    refs += [model for raw in phase.raw for model in raw.models]
    return {ref.key for ref in refs}

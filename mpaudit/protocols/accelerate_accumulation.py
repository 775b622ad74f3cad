"""Gradient accumulation on Accelerate: clip once for each group of micro-batches, divide once."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import (
    Accelerated,
    AcceleratorBackward,
    AcceleratorUnscaled,
    Event,
    GradientsClipped,
    LostSight,
    OptimizerStep,
    PlainBackward,
    PreparedStep,
)
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

CLIP = "accelerate-clip-mid-accumulation"
DIVISION = "accelerate-double-division"
STEPS = "the optimizer steps here, once for several micro-batches"


class AccelerateAccumulationProtocol(Protocol):
    """MP609 and MP610.

    State: "backward" -> the last accelerator.backward() since a step, or a plain one of a loss that no
    scaler of the script's own multiplies: that one is wrong itself, but clipped too often all the same;
    "unscaled" -> the first AcceleratorUnscaled since then.
    """

    __slots__ = ()

    takes = (
        AcceleratorBackward,
        PlainBackward,
        AcceleratorUnscaled,
        GradientsClipped,
        PreparedStep,
        OptimizerStep,
        LostSight,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        unscaled = self.state.get("unscaled")
        match event:
            case AcceleratorBackward():
                self.state["backward"] = event
                self.state.pop("unscaled", None)
                if event.divided is not None:
                    yield _double_division(event)
            case PlainBackward(scalers=()) if event.accelerator is not None:
                self.state["backward"] = event
                self.state.pop("unscaled", None)
            case AcceleratorUnscaled():
                yield from self._unscaled(event, unscaled)
            case GradientsClipped():
                backward = self.state.get("backward")
                if isinstance(backward, AcceleratorBackward):
                    if backward.accelerator.scales is False and unscaled is None:
                        yield from _clipped(event, event.how, backward.accelerator)
            case PreparedStep():
                if event.counted and isinstance(unscaled, AcceleratorUnscaled):
                    if unscaled.clip and not unscaled.occasional:
                        yield _clip_outside_guard(unscaled, event)
                self.state.clear()
            case OptimizerStep():
                self.state.clear()
            case LostSight() if isinstance(unscaled, AcceleratorUnscaled):
                if unscaled.accelerator.ref.key in event.objects:
                    self.state.clear()

    def _unscaled(self, event: AcceleratorUnscaled, before: object) -> Iterator[Verdict]:
        if "backward" not in self.state:
            return
        if isinstance(before, AcceleratorUnscaled) and before.at != event.at:
            accelerator = event.accelerator
            sure = accelerator.scales or (accelerator.scales is None and accelerator.chosen)
            if sure and (before.whole or event.whole):
                yield _unscaled_twice(before, event)
        self.state.setdefault("unscaled", event)
        if event.clip:
            yield from _clipped(event, event.clip, event.accelerator)


def _clipped(event: Event, how: str, accelerator: Accelerated) -> Iterator[Verdict]:
    """A clip under `accumulate()`: in every pass, or only where a group is complete?"""
    if not accelerator.gathering or accelerator.accumulates is False:
        return
    if event.occasional:
        yield Kept(CLIP, event.at)
    else:
        yield _in_every_pass(event, how, accelerator)


def _consequence(accelerator: Accelerated) -> str:
    partial = (
        "the gradients of a part of the group are cut to the limit, and those of the rest added on"
    )
    if accelerator.scales is False:
        return f"{partial}: another direction than that of the whole"
    raises = (
        'raises "unscale_() has already been called on this optimizer since the last update()."'
    )
    if accelerator.scales:
        return f"the second micro-batch {raises}"
    return f"in fp16 the second micro-batch {raises}; in other precisions {partial}"


def _in_every_pass(event: Event, how: str, accelerator: Accelerated) -> Broken:
    name = accelerator.text or "accelerator"
    return Broken(
        Problem(
            CLIP,
            event.at,
            f"{how} runs for every micro-batch, and not once for the group",
            _consequence(accelerator),
            (),
            (("accelerator", name),),
        ),
        grounded=True,
    )


def _clip_outside_guard(clip: AcceleratorUnscaled, step: PreparedStep) -> Broken:
    return Broken(
        Problem(
            CLIP,
            clip.at,
            f"{clip.clip} runs for every micro-batch, and not once for the group",
            _consequence(clip.accelerator),
            (Related(step.at, STEPS),),
            (("accelerator", clip.accelerator.text),),
        )
    )


def _unscaled_twice(before: AcceleratorUnscaled, event: AcceleratorUnscaled) -> Broken:
    when = "" if event.accelerator.scales else "in fp16 "
    return Broken(
        Problem(
            CLIP,
            event.at,
            f"`{event.accelerator.text}` unscales the gradients of all its optimizers a second time",
            f'{when}it raises "unscale_() has already been called on this optimizer since the last '
            'update()."',
            (Related(before.at, "all of them are unscaled here"),),
        )
    )


def _double_division(event: AcceleratorBackward) -> Broken:
    assert event.divided is not None
    accelerator = event.accelerator
    name = accelerator.text or "the accelerator"
    return Broken(
        Problem(
            DIVISION,
            event.divided,
            "the loss is divided by the number of micro-batches, and then once more by "
            f"`{name}.backward()`",
            "the update is as many times too small as there are micro-batches in a group",
            (Related(event.at, "it is divided here by what `gradient_accumulation_steps` says"),),
            (("accelerator", accelerator.text), ("loss", event.loss.text)),
        )
    )

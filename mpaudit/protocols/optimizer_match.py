"""Which optimizer is unscaled, which gradients are clipped, and which optimizer then steps."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from mpaudit.event import (
    Backward,
    Event,
    GradientsClipped,
    LostSight,
    OptimizerStep,
    Ref,
    ScalerStep,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

RULE = "mismatched-optimizer"


class _Phase(Struct, frozen=True):
    """What happened to the gradients since they were there; `clips` go with what was unscaled."""

    unscaled: tuple[Unscaled, ...] = ()
    clips: tuple[tuple[GradientsClipped, tuple[Unscaled, ...]], ...] = ()
    steps: tuple[ScalerStep, ...] = ()
    over: bool = False

    @property
    def handled(self) -> set[Ref | None]:
        """The optimizers that were unscaled or stepped."""
        return {e.optimizer for e in self.unscaled} | {e.optimizer for e in self.steps}


class OptimizerMatchProtocol(Protocol):
    """MP117. State: "phase" -> _Phase, from the first unscale_ on until update()."""

    __slots__ = ()

    takes = (
        Backward,
        Unscaled,
        GradientsClipped,
        ScalerStep,
        OptimizerStep,
        ScalerUpdate,
        LostSight,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event; what is unscaled and clipped is judged once the scaler updates."""
        phase = self.state.get("phase")
        phase = phase if isinstance(phase, _Phase) else None
        match event:
            case Unscaled(by_hand=True) | OptimizerStep():
                self.state.pop("phase", None)
            case Unscaled():
                phase = phase or _Phase()
                again = event.optimizer in phase.handled
                unscaled = (*phase.unscaled, event)
                self.state["phase"] = replace(phase, unscaled=unscaled, over=phase.over or again)
            case GradientsClipped() if phase is not None and not phase.steps:
                clips = (*phase.clips, (event, phase.unscaled))
                self.state["phase"] = replace(phase, clips=clips)
            case ScalerStep() if phase is not None:
                self.state["phase"] = replace(phase, steps=(*phase.steps, event))
            case ScalerUpdate():
                self.state.pop("phase", None)
                if phase is not None and not phase.over:
                    yield from _judge(phase, event.scaler)
            case Backward() if phase is not None and phase.steps:
                del self.state["phase"]
                if not phase.over:
                    yield from _judge(phase, phase.steps[-1].scaler)
            case LostSight() if phase is not None:
                refs = (*phase.handled, *(step.scaler for step in phase.steps))
                if any(ref is not None and ref.key in event.objects for ref in refs):
                    del self.state["phase"]


def _judge(phase: _Phase, scaler: Ref) -> Iterator[Verdict]:
    steps = [step for step in phase.steps if step.scaler == scaler]
    for clip, unscaled in phase.clips:
        ready = {event.optimizer for event in unscaled}
        left = [
            step
            for step in steps
            if step.optimizer not in ready
            and clip.exact
            and step.optimizer in (clip.optimizers or ())
        ]
        if left:
            yield _mismatch(clip, unscaled, left)
        elif steps and _elsewhere(unscaled, steps):
            yield _mismatch(clip, unscaled, steps)
        else:
            yield Kept(RULE, clip.at)


def _elsewhere(unscaled: tuple[Unscaled, ...], steps: list[ScalerStep]) -> bool:
    """Whether all that is stepped is certainly other than what was unscaled."""
    if not all(step.definite for step in steps) or not all(each.definite for each in unscaled):
        return False
    stepped = {ref for step in steps for ref in (step.optimizer, *step.wraps)}
    return not stepped & {event.optimizer for event in unscaled}


def _mismatch(
    clip: GradientsClipped, unscaled: tuple[Unscaled, ...], left: list[ScalerStep]
) -> Broken:
    ready = " and ".join(f"`{e.optimizer.text}`" for e in unscaled if e.optimizer is not None)
    missing = " and ".join(f"`{step.optimizer.text}`" for step in left)
    verb = "is" if len(unscaled) == 1 else "are"
    message = f"gradients of {missing} are clipped while still scaled: only {ready} {verb} unscaled"
    if clip.optimizers and set(clip.optimizers) <= {event.optimizer for event in unscaled}:
        message = f"{ready} {verb} unscaled and clipped, but it is {missing} that steps"
    return Broken(
        Problem(
            RULE,
            clip.at,
            message,
            "the norm is that of gradients 65536 times too large (at the initial scale): what is "
            "clipped by it is cut to almost nothing",
            (
                *(Related(event.at, "only this optimizer is unscaled") for event in unscaled),
                *(Related(step.at, "another one is stepped here") for step in left),
            ),
            (("scaler", left[-1].scaler.text), ("optimizer", left[-1].optimizer.text)),
        )
    )

"""What is wrong when the GradScaler protocol is broken, in words: one function for each breach."""

from __future__ import annotations

from msgspec import Struct

from mpaudit.event import (
    Backward,
    Event,
    GradientsClipped,
    LossScaled,
    OptimizerStep,
    Ref,
    ScalerStep,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.protocol import Broken

RAISES = "it raises "
"""How the consequence of a breach begins that ends the run."""


class Phase(Struct, frozen=True):
    """The backward passes whose gradients are there, and what was done with them since.

    A phase ends with the first backward after a step: from then on other gradients are meant.
    """

    backwards: tuple[Backward, ...] = ()
    unscaled: tuple[Ref, ...] = ()
    by_hand: Unscaled | None = None
    stepped: tuple[ScalerStep, ...] = ()
    closed: bool = False

    def scaled_by(self, scaler: Ref) -> Backward | None:
        """A backward of this phase whose loss was scaled by `scaler`."""
        return next((b for b in self.backwards if b.scalers and scaler in b.scalers), None)

    @property
    def all_unscaled(self) -> bool:
        """Whether it is known that no loss of this phase was scaled."""
        return bool(self.backwards) and all(b.scalers == () for b in self.backwards)

    @property
    def all_scaled(self) -> bool:
        """Whether it is known that every loss of this phase was scaled."""
        return bool(self.backwards) and all(b.scalers for b in self.backwards)


def related(*pairs: tuple[Span | None, str]) -> tuple[Related, ...]:
    return tuple(Related(span, message) for span, message in pairs if span is not None)


def subjects(
    scaler: Ref | None = None, optimizer: Ref | None = None
) -> tuple[tuple[str, str], ...]:
    pairs = (("scaler", scaler), ("optimizer", optimizer))
    return tuple((name, ref.text) for name, ref in pairs if ref is not None and ref.text)


def scaled_at(phase: Phase) -> tuple[Span | None, str]:
    return phase.backwards[-1].at, "the gradients of the scaled loss are made here"


def missing_update(step: ScalerStep, next_use: Event) -> Broken:
    what = "stepped again" if isinstance(next_use, ScalerStep) else "unscaled again"
    where = (
        () if next_use.at == step.at else ((next_use.at, f"{what} here, in the next iteration"),)
    )
    return Broken(
        Problem(
            "missing-scaler-update",
            step.at,
            f"`{step.scaler.text}.step()` is never followed by `{step.scaler.text}.update()`",
            'it raises "step() has already been called since the last update()" in the second iteration',
            related(*where),
            subjects(step.scaler, step.optimizer),
        ),
        grounded=not step.occasional,
    )


def double_step(before: ScalerStep, event: ScalerStep) -> Broken:
    scaler, optimizer = event.scaler.text, event.optimizer.text
    return Broken(
        Problem(
            "update-before-step",
            event.at,
            f"`{scaler}.step({optimizer})` comes twice with no `{scaler}.update()` between",
            'it raises "step() has already been called since the last update()"',
            related((before.at, "stepped for the first time here")),
            subjects(event.scaler, event.optimizer),
        )
    )


def double_unscale(before: Unscaled, event: Unscaled) -> Broken:
    assert event.optimizer is not None
    scaler, optimizer = event.scaler.text, event.optimizer.text
    again = before.at == event.at
    by_calls = again and before.called_at != event.called_at
    if by_calls:
        calls = related(
            (before.called_at, "first by this call"), (event.called_at, "again by this")
        )
    else:
        calls = related((None if again else before.at, "unscaled for the first time here"))
    return Broken(
        Problem(
            "double-unscale",
            event.at,
            f"`{scaler}.unscale_({optimizer})` runs again before `{scaler}.update()`"
            + (": once for each micro-batch" if again and not by_calls else ""),
            'it raises "unscale_() has already been called on this optimizer since the last update()"; '
            "gradients added after the first call are 65536 times too large",
            calls,
            subjects(event.scaler, event.optimizer),
        ),
        grounded=True,
    )


def unscaled_by_hand(by_hand: Unscaled, event: ScalerStep) -> Broken:
    return Broken(
        Problem(
            "double-unscale",
            by_hand.at,
            "the gradients are divided by the scale by hand, and "
            f"`{event.scaler.text}.step()` divides them again",
            "the update is 65536 times too small at the initial scale",
            related((event.at, "divided again here")),
            subjects(event.scaler, event.optimizer),
        )
    )


def unscaled_inside(early: Unscaled, event: ScalerStep) -> Broken:
    scaler, optimizer = event.scaler.text, event.optimizer.text
    return Broken(
        Problem(
            "double-unscale",
            early.at,
            f"the optimizer inside `{optimizer}` is unscaled, and `{scaler}.step({optimizer})` unscales "
            "the same gradients again",
            "the update is 65536 times too small at the initial scale",
            related((event.at, "unscaled again here: the scaler knows optimizers by identity")),
            subjects(event.scaler, event.optimizer),
        )
    )


def clip_before_unscale(event: GradientsClipped, at: Span | None, why: str) -> Broken:
    if event.how == "noise":
        return Broken(
            Problem(
                "clip-before-unscale",
                event.at,
                "noise is added to gradients that are still multiplied by the loss scale",
                "the noise is 65536 times too small (at the initial scale): it is as good as not there",
                related((at, why)),
            )
        )
    return Broken(
        Problem(
            "clip-before-unscale",
            event.at,
            "gradients are clipped while they are still multiplied by the loss scale",
            "the limit is compared with values 65536 times too large (at the initial scale): every "
            "step is clipped, and training almost stands still",
            related((at, why), (event.called_at, "the function that clips is called here")),
        )
    )


def clip_after_step(phase: Phase, event: GradientsClipped) -> Broken:
    step = phase.stepped[-1]
    return Broken(
        Problem(
            "clip-before-unscale",
            event.at,
            "gradients are clipped after the optimizer has stepped",
            "the clipping has no effect",
            related((step.at, "the gradients were applied here")),
            subjects(step.scaler, step.optimizer),
        )
    )


def unscaled_backward(phase: Phase, event: ScalerStep, thrown: LossScaled | None) -> Broken:
    backward = phase.backwards[-1]
    scaler = event.scaler.text
    message = f"`{backward.loss.text}.backward()` runs on the unscaled loss, but `{scaler}` steps"
    pairs: list[tuple[Span | None, str]] = []
    if thrown is not None and thrown.loss == backward.loss:
        message = f"the result of `{scaler}.scale()` is thrown away: `backward()` runs on the unscaled loss"
        pairs.append((thrown.at, "this returns the scaled loss and changes nothing"))
    pairs.append((event.at, "the gradients are divided by the scale here"))
    return Broken(
        Problem(
            "unscaled-backward",
            backward.at,
            message,
            "the update is 65536 times too small at the initial scale: SGD stands still, Adam hides it",
            related(*pairs),
            (*subjects(event.scaler, event.optimizer), ("loss", backward.loss.text)),
        )
    )


def unscaled_step(phase: Phase, event: OptimizerStep) -> Broken:
    scalers = phase.backwards[-1].scalers or ()
    return Broken(
        Problem(
            "unscaled-step",
            event.at,
            f"`{event.optimizer.text}.step()` applies gradients that are still multiplied by the loss scale",
            "the update is 65536 times too large at the initial scale, and overflows are not skipped",
            related(scaled_at(phase)),
            subjects(scalers[-1] if scalers else None, event.optimizer),
        )
    )


def stepped_again(before: ScalerStep, event: OptimizerStep) -> Broken:
    scaler, optimizer = before.scaler.text, event.optimizer.text
    return Broken(
        Problem(
            "unscaled-step",
            event.at,
            f"`{optimizer}.step()` applies the gradients that `{scaler}.step()` has applied already",
            "each update is made twice, and by this step also where the scaler skipped it for inf or NaN",
            related((before.at, "stepped here, through the scaler")),
            subjects(before.scaler, event.optimizer),
        )
    )


def missing_scaler(backward: Backward, event: OptimizerStep) -> Broken:
    region = backward.made_in
    assert region is not None
    certain = region.dtype == "float16"
    where = "here" if certain else "here, in one of the cases that decide about the dtype"
    return Broken(
        Problem(
            "missing-grad-scaler",
            backward.at,
            "float16 autocast trains without a GradScaler",
            "gradients below 6e-8 become zero in float16 and are lost",
            related(
                (region.span, f"the forward pass runs in float16 {where}"),
                (event.at, "the gradients are applied here"),
            ),
            subjects(None, event.optimizer),
        ),
        judged=region.span,
    )


def update_before_step(before: LossScaled | ScalerUpdate, event: ScalerUpdate) -> Broken:
    scaler = event.scaler.text
    what = "the loss was scaled here" if isinstance(before, LossScaled) else "updated before here"
    return Broken(
        Problem(
            "update-before-step",
            event.at,
            f"`{scaler}.update()` runs though nothing was stepped since the last one",
            'it raises "No inf checks were recorded prior to update."',
            () if before.at == event.at else related((before.at, what)),
            subjects(event.scaler),
        ),
        grounded=not event.occasional,
    )


def scaler_in_loop(made: Span, event: ScalerStep) -> Broken:
    return Broken(
        Problem(
            "scaler-in-loop",
            made,
            "a new GradScaler is built in every pass of the training loop",
            "the scale starts over at 65536 each time: if that overflows, every step is skipped for ever",
            related((event.at, "the same optimizer is stepped by each new scaler")),
            subjects(event.scaler, event.optimizer),
        )
    )

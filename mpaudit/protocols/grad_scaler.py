"""The GradScaler protocol: scale, backward, unscale once, clip, step, update.

Order of one iteration, from the documentation of `torch.amp.GradScaler`: the loss is multiplied by the
scale, the gradients are divided by it at most once for each optimizer (`unscale_`, or `step` itself), and
`update` closes the iteration.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace

from mpaudit.event import (
    Backward,
    Event,
    GradientsClipped,
    LossScaled,
    LostSight,
    OptimizerStep,
    Ref,
    ScalerMade,
    ScalerStep,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict


RAISES = "it raises "
"""How the consequence of a breach begins that ends the run."""


@dataclass(frozen=True, slots=True)
class Phase:
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


class GradScalerProtocol(Protocol):
    """MP101-MP107 and MP109.

    State: "phase" -> Phase; ("made", scaler) -> where it was built; ("scaled", scaler) -> the last
    LossScaled since update(); ("unscaled", scaler, optimizer) and ("stepped", scaler, optimizer) ->
    the event since update(); ("stepper", optimizer) -> the scaler that last stepped it; ("updated",
    scaler) -> the last update(), if nothing was stepped since; "raised" -> the breach after which a
    real run is over, so that nothing that follows on this path is evidence.
    """

    __slots__ = ()

    @property
    def phase(self) -> Phase:
        """The phase in progress."""
        phase = self.state.get("phase")
        return phase if isinstance(phase, Phase) else Phase()

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self.state["phase"] = phase

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        if "raised" in self.state:
            return
        for verdict in self._judge(event):
            if isinstance(verdict, Broken) and verdict.problem.consequence.startswith(RAISES):
                self.state["raised"] = verdict.problem.rule
            yield verdict

    def _judge(self, event: Event) -> Iterator[Verdict]:
        match event:
            case ScalerMade():
                self.state[("made", event.scaler)] = event.at
            case LossScaled():
                self.state[("scaled", event.scaler)] = event
            case Backward():
                yield from self._backward(event)
            case Unscaled():
                yield from self._unscaled(event)
            case GradientsClipped():
                yield from self._clipped(event)
            case ScalerStep():
                yield from self._scaler_step(event)
            case OptimizerStep():
                yield from self._optimizer_step(event)
            case ScalerUpdate():
                yield from self._update(event)
            case LostSight():
                self._lost(event)

    def _backward(self, event: Backward) -> Iterator[Verdict]:
        phase = Phase() if self.phase.closed else self.phase
        same = [b for b in phase.backwards if b.at != event.at]
        self.phase = replace(phase, backwards=(*same, event))
        if event.scalers:
            yield Kept("unscaled-backward", event.at)
        if event.scalers != () and event.made_in is not None:
            yield Kept("missing-grad-scaler", event.made_in.span)

    def _unscaled(self, event: Unscaled) -> Iterator[Verdict]:
        if event.by_hand:
            self.phase = replace(self.phase, by_hand=event)
            return
        if event.optimizer is None:
            return
        stepped = self.state.get(("stepped", event.scaler, event.optimizer))
        if isinstance(stepped, ScalerStep):
            yield _missing_update(stepped, event)
            return
        key = ("unscaled", event.scaler, event.optimizer)
        before = self.state.get(key)
        if isinstance(before, Unscaled) and not event.occasional:
            yield _double_unscale(before, event)
        self.state[key] = event
        self.state.pop(("updated", event.scaler), None)
        self.phase = replace(self.phase, unscaled=(*self.phase.unscaled, event.optimizer))

    def _clipped(self, event: GradientsClipped) -> Iterator[Verdict]:
        phase = self.phase
        if phase.by_hand is not None:
            yield Kept("clip-before-unscale", event.at)
            return
        if not phase.all_scaled:
            return
        concerned = event.optimizers
        done = {step.optimizer for step in phase.stepped}
        if done and (concerned is None or done >= set(concerned)):
            if concerned is not None or len(done) == 1:
                yield _clip_after_step(phase, event)
            return
        unscaled = set(phase.unscaled)
        if unscaled and (concerned is None or unscaled & set(concerned)):
            yield Kept("clip-before-unscale", event.at)
        elif not unscaled:
            yield _clip_before_unscale(phase, event)

    def _scaler_step(self, event: ScalerStep) -> Iterator[Verdict]:
        scaler, optimizer, phase = event.scaler, event.optimizer, self.phase
        yield from self._made_anew(event)
        key = ("stepped", scaler, optimizer)
        before = self.state.get(key)
        if isinstance(before, ScalerStep):
            yield (
                _missing_update(before, event)
                if before.at == event.at
                else _double_step(before, event)
            )
        if phase.scaled_by(scaler):
            if phase.by_hand is not None:
                yield _unscaled_by_hand(phase.by_hand, event)
            for inner in event.wraps:
                early = self.state.get(("unscaled", scaler, inner))
                if isinstance(early, Unscaled):
                    yield _unscaled_inside(early, event)
        elif phase.all_unscaled and not phase.closed:
            thrown = self.state.get(("scaled", scaler))
            yield _unscaled_backward(
                phase, event, thrown if isinstance(thrown, LossScaled) else None
            )
        self.state[key] = event
        self.state[("stepper", optimizer)] = scaler
        self.state.pop(("updated", scaler), None)
        self.phase = replace(
            phase,
            closed=True,
            stepped=(*phase.stepped, event),
            unscaled=(*phase.unscaled, optimizer),
        )

    def _made_anew(self, event: ScalerStep) -> Iterator[Verdict]:
        made = self.state.get(("made", event.scaler))
        earlier = self.state.get(("stepper", event.optimizer))
        if not isinstance(made, Span) or earlier in (None, event.scaler):
            return
        if self.state.get(("made", earlier)) == made:
            yield _scaler_in_loop(made, event)

    def _optimizer_step(self, event: OptimizerStep) -> Iterator[Verdict]:
        phase = self.phase
        if phase.closed and not phase.stepped:
            return
        if phase.all_scaled and event.optimizer not in phase.unscaled and phase.by_hand is None:
            yield _unscaled_step(phase, event)
            for backward in phase.backwards:
                for scaler in backward.scalers or ():
                    self.state.pop(("scaled", scaler), None)
                    self.state.pop(("updated", scaler), None)
        elif phase.all_unscaled:
            yield Kept("unscaled-step", event.at)
            for backward in phase.backwards:
                region = backward.made_in
                if region is not None and region.dtype == "float16":
                    yield _missing_scaler(backward, event)
        self.phase = replace(phase, closed=True)

    def _update(self, event: ScalerUpdate) -> Iterator[Verdict]:
        scaler = event.scaler
        stepped = [
            value
            for key, value in self.state.items()
            if isinstance(value, ScalerStep) and _names(key, "stepped", scaler)
        ]
        checked = [
            value
            for key, value in self.state.items()
            if isinstance(value, Unscaled) and _names(key, "unscaled", scaler)
        ]
        for step in stepped:
            yield Kept("missing-scaler-update", step.at, event.occasional)
        scaled = self.state.get(("scaled", scaler)) or self.state.get(("updated", scaler))
        if stepped or checked:
            occasional = all(each.occasional for each in (*stepped, *checked))
            yield Kept("update-before-step", event.at, occasional)
        elif isinstance(scaled, LossScaled | ScalerUpdate) and not event.to_given_scale:
            yield _update_before_step(scaled, event)
        for key in list(self.state):
            if _names(key, "stepped", scaler) or _names(key, "unscaled", scaler):
                del self.state[key]
        self.state.pop(("scaled", scaler), None)
        if stepped or checked:
            self.state[("updated", scaler)] = event

    def _lost(self, event: LostSight) -> None:
        for key, value in list(self.state.items()):
            if key == "phase" or not isinstance(key, tuple) or key[0] == "made":
                continue
            refs = [part for part in (*key, value) if isinstance(part, Ref)]
            if any(ref.key in event.objects for ref in refs):
                del self.state[key]
        involved = {ref.key for b in self.phase.backwards for ref in (b.loss, *(b.scalers or ()))}
        involved |= {ref.key for ref in self.phase.unscaled}
        if involved & event.objects:
            self.state.pop("phase", None)


def _names(key: Hashable, what: str, scaler: Ref) -> bool:
    return isinstance(key, tuple) and key[0] == what and key[1] == scaler


def _related(*pairs: tuple[Span | None, str]) -> tuple[Related, ...]:
    return tuple(Related(span, message) for span, message in pairs if span is not None)


def _subjects(
    scaler: Ref | None = None, optimizer: Ref | None = None
) -> tuple[tuple[str, str], ...]:
    pairs = (("scaler", scaler), ("optimizer", optimizer))
    return tuple((name, ref.text) for name, ref in pairs if ref is not None and ref.text)


def _scaled_at(phase: Phase) -> tuple[Span | None, str]:
    return phase.backwards[-1].at, "the gradients of the scaled loss are made here"


def _missing_update(step: ScalerStep, next_use: Event) -> Broken:
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
            _related(*where),
            _subjects(step.scaler, step.optimizer),
        ),
        grounded=not step.occasional,
    )


def _double_step(before: ScalerStep, event: ScalerStep) -> Broken:
    scaler, optimizer = event.scaler.text, event.optimizer.text
    return Broken(
        Problem(
            "update-before-step",
            event.at,
            f"`{scaler}.step({optimizer})` comes twice with no `{scaler}.update()` between",
            'it raises "step() has already been called since the last update()"',
            _related((before.at, "stepped for the first time here")),
            _subjects(event.scaler, event.optimizer),
        )
    )


def _double_unscale(before: Unscaled, event: Unscaled) -> Broken:
    assert event.optimizer is not None
    scaler, optimizer = event.scaler.text, event.optimizer.text
    again = before.at == event.at
    return Broken(
        Problem(
            "double-unscale",
            event.at,
            f"`{scaler}.unscale_({optimizer})` runs again before `{scaler}.update()`"
            + (": once for each micro-batch" if again else ""),
            'it raises "unscale_() has already been called on this optimizer since the last update()"; '
            "gradients added after the first call are 65536 times too large",
            () if again else _related((before.at, "unscaled for the first time here")),
            _subjects(event.scaler, event.optimizer),
        ),
        grounded=True,
    )


def _unscaled_by_hand(by_hand: Unscaled, event: ScalerStep) -> Broken:
    return Broken(
        Problem(
            "double-unscale",
            by_hand.at,
            "the gradients are divided by the scale by hand, and "
            f"`{event.scaler.text}.step()` divides them again",
            "the update is 65536 times too small at the initial scale",
            _related((event.at, "divided again here")),
            _subjects(event.scaler, event.optimizer),
        )
    )


def _unscaled_inside(early: Unscaled, event: ScalerStep) -> Broken:
    scaler, optimizer = event.scaler.text, event.optimizer.text
    return Broken(
        Problem(
            "double-unscale",
            early.at,
            f"the optimizer inside `{optimizer}` is unscaled, and `{scaler}.step({optimizer})` unscales "
            "the same gradients again",
            "the update is 65536 times too small at the initial scale",
            _related((event.at, "unscaled again here: the scaler knows optimizers by identity")),
            _subjects(event.scaler, event.optimizer),
        )
    )


def _clip_before_unscale(phase: Phase, event: GradientsClipped) -> Broken:
    return Broken(
        Problem(
            "clip-before-unscale",
            event.at,
            "gradients are clipped while they are still multiplied by the loss scale",
            "the limit is compared with values 65536 times too large (at the initial scale): every "
            "step is clipped, and training almost stands still",
            _related(_scaled_at(phase)),
        )
    )


def _clip_after_step(phase: Phase, event: GradientsClipped) -> Broken:
    step = phase.stepped[-1]
    return Broken(
        Problem(
            "clip-before-unscale",
            event.at,
            "gradients are clipped after the optimizer has stepped",
            "the clipping has no effect",
            _related((step.at, "the gradients were applied here")),
            _subjects(step.scaler, step.optimizer),
        )
    )


def _unscaled_backward(phase: Phase, event: ScalerStep, thrown: LossScaled | None) -> Broken:
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
            _related(*pairs),
            (*_subjects(event.scaler, event.optimizer), ("loss", backward.loss.text)),
        )
    )


def _unscaled_step(phase: Phase, event: OptimizerStep) -> Broken:
    scalers = phase.backwards[-1].scalers or ()
    return Broken(
        Problem(
            "unscaled-step",
            event.at,
            f"`{event.optimizer.text}.step()` applies gradients that are still multiplied by the loss scale",
            "the update is 65536 times too large at the initial scale, and overflows are not skipped",
            _related(_scaled_at(phase)),
            _subjects(scalers[-1] if scalers else None, event.optimizer),
        )
    )


def _missing_scaler(backward: Backward, event: OptimizerStep) -> Broken:
    region = backward.made_in
    assert region is not None
    return Broken(
        Problem(
            "missing-grad-scaler",
            backward.at,
            "float16 autocast trains without a GradScaler",
            "gradients below 6e-8 become zero in float16 and are lost",
            _related(
                (region.span, "the forward pass runs in float16 here"),
                (event.at, "the gradients are applied here"),
            ),
            _subjects(None, event.optimizer),
        )
    )


def _update_before_step(before: LossScaled | ScalerUpdate, event: ScalerUpdate) -> Broken:
    scaler = event.scaler.text
    what = "the loss was scaled here" if isinstance(before, LossScaled) else "updated before here"
    return Broken(
        Problem(
            "update-before-step",
            event.at,
            f"`{scaler}.update()` runs though nothing was stepped since the last one",
            'it raises "No inf checks were recorded prior to update."',
            () if before.at == event.at else _related((before.at, what)),
            _subjects(event.scaler),
        ),
        grounded=not event.occasional,
    )


def _scaler_in_loop(made: Span, event: ScalerStep) -> Broken:
    return Broken(
        Problem(
            "scaler-in-loop",
            made,
            "a new GradScaler is built in every pass of the training loop",
            "the scale starts over at 65536 each time: if that overflows, every step is skipped for ever",
            _related((event.at, "the same optimizer is stepped by each new scaler")),
            _subjects(event.scaler, event.optimizer),
        )
    )

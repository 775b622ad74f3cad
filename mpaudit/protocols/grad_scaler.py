"""The GradScaler protocol: scale, backward, unscale once, clip, step, update.

Order of one iteration, from the documentation of `torch.amp.GradScaler`: the loss is multiplied by the
scale, the gradients are divided by it at most once for each optimizer (`unscale_`, or `step` itself), and
`update` closes the iteration.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from msgspec.structs import replace

from mpaudit.event import (
    Backward,
    Event,
    GradientsClipped,
    GradientsZeroed,
    LossScaled,
    LostSight,
    OptimizerStep,
    Ref,
    ScalerLoaded,
    ScalerMade,
    ScalerStep,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.finding import Span
from mpaudit.protocols import grad_scaler_problems as problems
from mpaudit.protocols.grad_scaler_problems import RAISES, Phase
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict


class GradScalerProtocol(Protocol):
    """MP101-MP107 and MP109.

    State: "phase" -> Phase; ("scaled", scaler) -> the last LossScaled since update(); ("unscaled",
    scaler, optimizer) and ("stepped", scaler, optimizer) -> the event since update(); ("stepper",
    optimizer) -> the scaler that last stepped it; ("updated", scaler) -> the last update(), if
    nothing was stepped since; ("applied", optimizer) -> its step through a scaler, until something
    new comes to its gradients; "early" -> a clip of gradients that came from out of sight;
    ("loaded", scaler) -> whether it was given the state of another one (None: one of them was);
    "raised" -> the breach after which a real run is over, so that no further breach on this path is
    evidence. Facts: ("made", scaler) -> where it was built; ("way", scaler) -> by which calls.
    """

    __slots__ = ()

    takes = (
        ScalerMade,
        ScalerLoaded,
        LossScaled,
        Backward,
        Unscaled,
        GradientsClipped,
        ScalerStep,
        OptimizerStep,
        ScalerUpdate,
        GradientsZeroed,
        LostSight,
    )

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
        raised = self.state.get("raised")
        for verdict in self._judge(event):
            if raised and not (isinstance(verdict, Kept) and verdict.rule != raised):
                continue
            if isinstance(verdict, Broken) and verdict.problem.consequence.startswith(RAISES):
                self.state["raised"] = verdict.problem.rule
            yield verdict

    def _judge(self, event: Event) -> Iterator[Verdict]:
        match event:
            case ScalerMade():
                self.facts[("made", event.scaler)] = event.at
                self.facts[("way", event.scaler)] = event.way
            case ScalerLoaded():
                self.state[("loaded", event.scaler)] = True
            case LossScaled():
                self.state[("scaled", event.scaler)] = event
            case Backward():
                yield from self._backward(event)
            case Unscaled():
                yield from self._unscaled(event)
            case GradientsClipped():
                self._forget_applied()
                yield from self._clipped(event)
            case ScalerStep():
                yield from self._scaler_step(event)
            case OptimizerStep():
                yield from self._optimizer_step(event)
            case ScalerUpdate():
                yield from self._update(event)
            case GradientsZeroed(optimizer=Ref() as optimizer):
                self.state.pop(("applied", optimizer), None)
            case GradientsZeroed():
                self.state.pop("phase", None)
                self.state.pop("early", None)
                self._forget_applied()
            case LostSight():
                self._lost(event)

    def _backward(self, event: Backward) -> Iterator[Verdict]:
        self.state.pop("early", None)
        self._forget_applied()
        phase = Phase() if self.phase.closed else self.phase
        same = [b for b in phase.backwards if b.at != event.at]
        self.phase = replace(phase, backwards=(*same, event))
        if event.scalers:
            yield Kept("unscaled-backward", event.at)
        if event.scalers != () and event.made_in is not None:
            yield Kept("missing-grad-scaler", event.made_in.span)

    def _forget_applied(self) -> None:
        for key in [k for k in self.state if isinstance(k, tuple) and k[0] == "applied"]:
            del self.state[key]

    def _unscaled(self, event: Unscaled) -> Iterator[Verdict]:
        if event.by_hand:
            self.phase = replace(self.phase, by_hand=event)
            return
        if event.optimizer is None:
            return
        stepped = self.state.get(("stepped", event.scaler, event.optimizer))
        if isinstance(stepped, ScalerStep):
            yield problems.missing_update(stepped, event)
            return
        key = ("unscaled", event.scaler, event.optimizer)
        before = self.state.get(key)
        if isinstance(before, Unscaled):
            # Under a condition that changes, what closes the iteration may rest on the same one.
            guarded = before.at == event.at and (event.occasional or before.occasional)
            if not guarded:
                yield problems.double_unscale(before, event)
        yield from self._clipped_early(event, event.optimizer)
        self.state[key] = event
        self.state.pop(("updated", event.scaler), None)
        self.phase = replace(self.phase, unscaled=(*self.phase.unscaled, event.optimizer))

    def _clipped_early(self, event: Event, optimizer: Ref) -> Iterator[Verdict]:
        """A clip for which gradients came from out of sight, and which are unscaled only now."""
        early = self.state.pop("early", None)
        if isinstance(early, GradientsClipped) and optimizer in (early.optimizers or (optimizer,)):
            yield problems.clip_before_unscale(early, event.at, "they are unscaled only here")

    def _clipped(self, event: GradientsClipped) -> Iterator[Verdict]:
        phase = self.phase
        if phase.by_hand is not None:
            yield Kept("clip-before-unscale", event.at)
            return
        if not phase.all_scaled:
            if not phase.backwards and not phase.unscaled:
                self.state["early"] = event
            return
        concerned = event.optimizers
        done = {step.optimizer for step in phase.stepped}
        if done and (concerned is None or done >= set(concerned)):
            if concerned is not None or len(done) == 1:
                yield problems.clip_after_step(phase, event)
            return
        unscaled = set(phase.unscaled)
        if unscaled and (concerned is None or unscaled & set(concerned)):
            yield Kept("clip-before-unscale", event.at)
        elif not unscaled:
            yield problems.clip_before_unscale(event, *problems.scaled_at(phase))

    def _scaler_step(self, event: ScalerStep) -> Iterator[Verdict]:
        scaler, optimizer, phase = event.scaler, event.optimizer, self.phase
        yield from self._made_anew(event)
        yield from self._left_out(event)
        key = ("stepped", scaler, optimizer)
        before = self.state.get(key)
        if isinstance(before, ScalerStep):
            yield (
                problems.missing_update(before, event)
                if before.at == event.at
                else problems.double_step(before, event)
            )
        if phase.scaled_by(scaler):
            if phase.by_hand is not None:
                yield problems.unscaled_by_hand(phase.by_hand, event)
            for inner in event.wraps:
                early = self.state.get(("unscaled", scaler, inner))
                if isinstance(early, Unscaled):
                    yield problems.unscaled_inside(early, event)
        elif phase.all_unscaled and not phase.closed and not event.edited:
            thrown = self.state.get(("scaled", scaler))
            yield problems.unscaled_backward(
                phase, event, thrown if isinstance(thrown, LossScaled) else None
            )
        self.state[key] = event
        self.state[("stepper", optimizer)] = scaler
        self.state[("applied", optimizer)] = event
        self.state.pop(("updated", scaler), None)
        self.phase = replace(
            phase,
            closed=True,
            stepped=(*phase.stepped, event),
            unscaled=(*phase.unscaled, optimizer),
        )

    def _left_out(self, event: ScalerStep) -> Iterator[Verdict]:
        """What no caller out of sight can make up for."""
        if "update" in event.alone:
            yield problems.missing_update(event, event)
        if "unscale_" in event.alone:
            yield from self._clipped_early(event, event.optimizer)
        self.state.pop("early", None)
        backwards = self.phase.backwards
        if "scale" in event.alone and backwards and not self.phase.closed:
            if all(b.scalers is None and not b.idle for b in backwards):
                yield problems.unscaled_backward(self.phase, event, None)

    def _made_anew(self, event: ScalerStep) -> Iterator[Verdict]:
        made = self.facts.get(("made", event.scaler))
        earlier = self.state.get(("stepper", event.optimizer))
        if not isinstance(made, Span) or earlier in (None, event.scaler):
            return
        loaded = {("loaded", event.scaler), ("loaded", None)}
        if not loaded.isdisjoint(self.state):  # it goes on where another one was
            yield Kept("scaler-in-loop", made)
            return
        came = self.facts.get(("way", event.scaler)) == self.facts.get(("way", earlier))
        if self.facts.get(("made", earlier)) == made and came:
            yield problems.scaler_in_loop(made, event)

    def _optimizer_step(self, event: OptimizerStep) -> Iterator[Verdict]:
        phase = self.phase
        applied = self.state.pop(("applied", event.optimizer), None)
        if isinstance(applied, ScalerStep) and not (applied.edited or event.apart or event.edited):
            yield problems.stepped_again(applied, event)
        if event.apart or (phase.closed and not phase.stepped):
            return
        others = event.once and bool(
            phase.unscaled
        )  # made behind the step that they were unscaled for
        handled = (
            others or event.edited or event.optimizer in phase.unscaled or phase.by_hand is not None
        )
        if phase.all_scaled and not handled:
            yield problems.unscaled_step(phase, event)
            for backward in phase.backwards:
                for scaler in backward.scalers or ():
                    self.state.pop(("scaled", scaler), None)
                    self.state.pop(("updated", scaler), None)
        elif phase.all_unscaled:
            if not any(backward.idle for backward in phase.backwards):
                yield Kept("unscaled-step", event.at)
            for backward in phase.backwards:
                region = backward.made_in
                if region is not None and region.may_cast_to("float16") and not event.once:
                    yield problems.missing_scaler(backward, event)
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
        elif isinstance(scaled, (LossScaled, ScalerUpdate)) and not event.to_given_scale:
            yield problems.update_before_step(scaled, event)
        for key in list(self.state):
            if _names(key, "stepped", scaler) or _names(key, "unscaled", scaler):
                del self.state[key]
        self.state.pop(("scaled", scaler), None)
        if stepped or checked:
            self.state[("updated", scaler)] = event

    def _lost(self, event: LostSight) -> None:
        self.state.pop("early", None)
        self._forget_applied()  # whoever has the model can put gradients into it
        for key, value in list(self.state.items()):
            if key == "phase" or not isinstance(key, tuple):
                continue
            refs = [part for part in (*key, value) if isinstance(part, Ref)]
            if key[0] in ("stepped", "unscaled"):
                refs = [key[1]]  # whoever has the optimizer alone can do neither, nor update
            if any(ref.key in event.objects for ref in refs):
                self.state.pop(key, None)
                if key[0] in ("stepped", "unscaled"):  # so that nothing seems to be missing
                    self.state.pop(("scaled", key[1]), None)
                    self.state.pop(("updated", key[1]), None)
        involved = {ref.key for b in self.phase.backwards for ref in (b.loss, *(b.scalers or ()))}
        involved |= {ref.key for ref in self.phase.unscaled}
        if involved & event.objects:
            self.state.pop("phase", None)


def _names(key: Hashable, what: str, scaler: Ref) -> bool:
    return isinstance(key, tuple) and key[0] == what and key[1] == scaler

"""Who runs backward: a library that scales the loss itself must be asked to."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from mpaudit.event import (
    Event,
    GradientsZeroed,
    OptimizerStep,
    OwnedBackward,
    OwnedStep,
    RawBackward,
    Ref,
    ScalerStep,
)
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

METHODS = {"Lightning": "manual_backward", "Fabric": "backward"}
LIGHTNING = "lightning-raw-backward"
MANY = 4
"""So many backward passes between two steps are remembered."""


class OwnedBackwardProtocol(Protocol):
    """MP604. State: ("raw", owner) -> the plain backward passes since its last step.

    A plain backward is judged by the step that follows: an optimizer that steps by itself may be fed by
    whom it likes, and gradients that are zeroed, as those of an adversarial example, feed none.
    """

    __slots__ = ()

    takes = (RawBackward, OwnedBackward, OwnedStep, OptimizerStep, ScalerStep, GradientsZeroed)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        match event:
            case RawBackward():
                for owner in event.owners:
                    before = self._raw(owner)
                    if len(before) < MANY:
                        self.state[("raw", owner)] = (*before, (event, owner))
            case OwnedBackward():
                self.state.pop(("raw", event.owner), None)
            case OwnedStep():
                for raw, owner in self._raw(event.owner):
                    if event.required is not False:
                        yield _problem(raw, owner, event)
                self.state.pop(("raw", event.owner), None)
            case OptimizerStep() | ScalerStep():
                for key in list(self.state):
                    for raw, _ in self._of(key):
                        yield Kept(LIGHTNING, raw.at)
                self.state.clear()
            case GradientsZeroed():
                self.state.clear()

    def _raw(self, owner: Ref) -> tuple[tuple[RawBackward, Ref], ...]:
        return self._of(("raw", owner))

    def _of(self, key: Hashable) -> tuple[tuple[RawBackward, Ref], ...]:
        known = self.state.get(key, ())
        return known if isinstance(known, tuple) else ()


def _problem(raw: RawBackward, owner: Ref, step: OwnedStep) -> Broken:
    method = METHODS[step.library]
    loss = raw.loss.text or "the loss"
    call = f"{owner.text or step.library}.{method}({loss})"
    if step.library == "Lightning":
        when = "" if step.required else "under precision='16-mixed', "
        message = f"`{loss}.backward()` in manual optimisation: the loss is not scaled"
        consequence = (
            f"{when}the optimizer divides the gradients by the loss scale all the same: the first step "
            'raises "Attempted unscale_ but _scale is None", and beside any manual_backward the updates '
            "are 65536 times too small in silence"
        )
    else:
        message = (
            f"`{loss}.backward()` goes around {step.library}, which has to run backward itself"
        )
        consequence = (
            'it raises "The current strategy and precision selection requires you to call '
            '`fabric.backward(loss)`"'
        )
    return Broken(
        Problem(
            LIGHTNING,
            raw.at,
            f"{message}; `{call}` does",
            consequence,
            (*step.because, Related(step.at, f"{step.library} steps the optimizer here")),
            (("loss", raw.loss.text), ("owner", owner.text), ("method", method)),
        ),
        grounded=step.required is True,
    )

"""Hooks on parameters that edit gradients as backward makes them: scaled ones, where the loss was."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Backward, Event, GradientsHooked, GradientsZeroed, LostSight, ScalerStep
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Protocol, Verdict

CLIP, SANITIZED = "clip-before-unscale", "sanitized-gradients"


class HookedGradientsProtocol(Protocol):
    """MP105 and MP124, where a hook does it.

    State: ("hook", place) -> GradientsHooked; "backward" -> the last Backward of a scaled loss since the
    gradients were dropped. No `unscale_` can come before a hook: the scaler's step alone tells whose
    gradients these were.
    """

    __slots__ = ()

    takes = (GradientsHooked, Backward, ScalerStep, GradientsZeroed, LostSight)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        if isinstance(event, GradientsHooked):
            if event.how:
                self.state[("hook", event.hook)] = event
            else:
                self.state.pop(("hook", event.hook), None)
        elif not self.state:
            return
        elif isinstance(event, Backward):
            self.state.pop("backward", None)
            if event.scalers:
                self.state["backward"] = event
        elif isinstance(event, ScalerStep):
            yield from self._stepped(event)
        elif isinstance(event, GradientsZeroed):
            self.state.pop("backward", None)
        elif isinstance(event, LostSight):
            backward = self.state.get("backward")
            scalers = (backward.scalers or ()) if isinstance(backward, Backward) else ()
            if any(scaler.key in event.objects for scaler in scalers):
                self.state.pop("backward", None)

    def _stepped(self, step: ScalerStep) -> Iterator[Verdict]:
        backward = self.state.pop("backward", None)
        if not isinstance(backward, Backward) or step.scaler not in (backward.scalers or ()):
            return
        for hook in list(self.state.values()):
            if isinstance(hook, GradientsHooked):
                if hook.optimizers is None or step.optimizer in hook.optimizers:
                    yield _problem(hook, backward, step)


def _problem(hook: GradientsHooked, backward: Backward, step: ScalerStep) -> Broken:
    files = {backward.at.filename, step.at.filename}
    at = next((place for place in hook.places if place.filename in files), hook.at)
    related = [Related(hook.at, "the hook is registered here")] if at != hook.at else []
    related.append(Related(backward.at, "the gradients of the scaled loss pass through it here"))
    if hook.how.startswith("nan_to_num"):
        rule = SANITIZED
        message = f"a hook's `{hook.how}` replaces what is infinite before the scaler looks"
        consequence = (
            "after an overflow the step is taken with the replacements, up to 3.4e38 / 65536 = "
            "5.2e33 each, and the scale does not fall: every following step overflows as well"
        )
        related.append(Related(step.at, "the scaler looks for infinities here"))
    else:
        rule = CLIP
        message = "a hook clips gradients while they are still multiplied by the loss scale"
        consequence = (
            "the limit is compared with values 65536 times too large (at the initial scale): every "
            "step is clipped, and training almost stands still"
        )
    return Broken(Problem(rule, at, message, consequence, tuple(related), (("by", "hook"),)))

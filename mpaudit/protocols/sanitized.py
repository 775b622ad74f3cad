"""Gradients whose overflow is wiped away before the scaler looks for it."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from mpaudit.event import (
    Backward,
    Event,
    GradientsSanitized,
    GradientsZeroed,
    LostSight,
    Ref,
    ScalerStep,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

RULE = "sanitized-gradients"


class _Gradients(Struct, frozen=True):
    """Scaled gradients: made by `backward`, looked at for `unscaled`, edited by `edits` before that."""

    backward: Span
    scalers: tuple[Ref, ...]
    unscaled: frozenset[Ref] = frozenset()
    edits: tuple[GradientsSanitized, ...] = ()


class SanitizedProtocol(Protocol):
    """MP124. State: "gradients" -> _Gradients from a scaled backward to the update, "idle" after one
    whose scaler is switched off.

    The scaler notes infinities in `unscale_`, or in `step` where that did not come before; what is
    replaced after it has done so is no longer its affair.
    """

    __slots__ = ()

    takes = (
        Backward,
        GradientsSanitized,
        Unscaled,
        ScalerStep,
        ScalerUpdate,
        GradientsZeroed,
        LostSight,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        now = self.state.get("gradients")
        if isinstance(event, Backward):
            if event.idle:
                self.state["gradients"] = "idle"
            elif not event.scalers:
                self.state.pop("gradients", None)
            elif not isinstance(now, _Gradients):
                self.state["gradients"] = _Gradients(event.at, event.scalers)
            return
        if not isinstance(now, _Gradients):
            if isinstance(event, GradientsSanitized) and now is None:
                yield Kept(RULE, event.at)
            return
        match event:
            case GradientsSanitized():
                if _seen(event, now.unscaled):
                    yield Kept(RULE, event.at)
                elif event not in now.edits:
                    self.state["gradients"] = replace(now, edits=(*now.edits, event))
            case Unscaled(optimizer=Ref() as optimizer) | ScalerStep(optimizer=optimizer):
                if optimizer not in now.unscaled:
                    yield from _hidden(now, optimizer, event)
                unscaled = now.unscaled | {optimizer}
                edits = tuple(edit for edit in now.edits if not _seen(edit, unscaled))
                self.state["gradients"] = replace(now, unscaled=unscaled, edits=edits)
            case LostSight():
                if event.objects & {ref.key for ref in now.scalers}:
                    del self.state["gradients"]
            case Unscaled() | ScalerUpdate() | GradientsZeroed():
                del self.state["gradients"]


def _seen(edit: GradientsSanitized, unscaled: frozenset[Ref]) -> bool:
    """Whether the scaler has looked at the gradients that are edited, or may have."""
    if edit.optimizers is None:
        return bool(unscaled)
    return set(edit.optimizers) <= unscaled


def _hidden(now: _Gradients, optimizer: Ref, event: Event) -> Iterator[Broken]:
    for edit in now.edits:
        if edit.optimizers is None or optimizer in edit.optimizers:
            yield Broken(
                Problem(
                    RULE,
                    edit.at,
                    f"`{edit.how}` replaces what is infinite in the gradients before the scaler looks",
                    "after an overflow the step is taken with the replacements, up to 3.4e38 / 65536 "
                    "= 5.2e33 each, and the scale does not fall: every following step overflows as well",
                    (
                        Related(now.backward, "the gradients of the scaled loss are made here"),
                        Related(event.at, "the scaler looks for infinities here"),
                    ),
                )
            )

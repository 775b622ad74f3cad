"""Guards against bad batches that leave a pass of the loop before the scaler is updated."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import (
    Backward,
    Event,
    GradientsClipped,
    LostSight,
    OptimizerStep,
    Ref,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

RULE = "guard-skips-update"


class GuardProtocol(Protocol):
    """MP123.

    State: ("unscaled", scaler, optimizer) -> its unscale_ since the last update. That it comes again
    is double-unscale where a count of micro-batches lets the update wait, and this rule where another
    condition does: which of them it is, the path that reaches the update says.
    "scaled" -> where the gradients were made that are scaled still: a guard that asks their norm, and
    leaves the pass where it is infinite, keeps the scale where it overflows.
    """

    __slots__ = ()

    takes = (Backward, GradientsClipped, Unscaled, ScalerUpdate, OptimizerStep, LostSight)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        match event:
            case Backward(scalers=scalers) if scalers:
                self.state["scaled"] = event.at
            case GradientsClipped(left=(asked, place)):
                made = self.state.get("scaled")
                if isinstance(made, Span):
                    yield _stuck(place, asked, made)
            case Unscaled(optimizer=Ref() as optimizer):
                self.state.pop("scaled", None)
                key = ("unscaled", event.scaler, optimizer)
                before = self.state.get(key)
                if isinstance(before, Unscaled) and before.at == event.at:
                    unasked = event.finite or event.beside or not event.occasional
                    if before.guard is not None and unasked:
                        yield _skipped(before)
                self.state[key] = event
            case ScalerUpdate():
                self.state.pop("scaled", None)
                yield from self._updated(event)
            case OptimizerStep():
                self.state.clear()
            case LostSight():
                for lost in list(self.state):
                    refs = lost if isinstance(lost, tuple) else ()
                    if any(isinstance(r, Ref) and r.key in event.objects for r in refs):
                        del self.state[lost]

    def _updated(self, event: ScalerUpdate) -> Iterator[Verdict]:
        """Say what kind of condition the update stands under, if under any."""
        for key, before in list(self.state.items()):
            if isinstance(key, tuple) and key[1] == event.scaler:
                del self.state[key]
                if isinstance(before, Unscaled) and before.guard is not None:
                    inner = before.beside and before.occasional
                    if inner and event.further is None:
                        continue  # no condition here: this says nothing of those that there may be
                    further = event.further if inner else not event.counted
                    guarded = event.occasional and (before.finite or further)
                    yield (
                        Kept("double-unscale", before.at) if guarded else Kept(RULE, before.guard)
                    )


def _stuck(place: Span, asked: Span, made: Span) -> Broken:
    return Broken(
        Problem(
            RULE,
            place,
            "this leaves the pass before the scaler is updated, where scaled gradients overflow",
            "the scale never comes down: what overflows once is left out in every pass from then on",
            (
                Related(made, "the gradients of the scaled loss are made here"),
                Related(asked, "and their norm is asked for here"),
            ),
        )
    )


def _skipped(before: Unscaled) -> Broken:
    assert before.guard is not None and before.optimizer is not None
    scaler, optimizer = before.scaler.text, before.optimizer.text
    return Broken(
        Problem(
            RULE,
            before.guard,
            f"this goes around `{scaler}.update()` after `{scaler}.unscale_({optimizer})`",
            'it raises "unscale_() has already been called on this optimizer since the last update()." '
            "in the next iteration",
            (Related(before.at, "unscaled here, and again in the next iteration"),),
            (("scaler", scaler), ("optimizer", optimizer)),
        ),
        grounded=True,
    )

"""Losses that stand after the autocast region and are computed in 16 bits."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Backward, Event, HalfLoss
from mpaudit.finding import Problem
from mpaudit.protocols.protocol import Broken, Protocol, Verdict


class HalfLossProtocol(Protocol):
    """MP203: a loss in 16 bits is reported once something is propagated back after it.

    State: the losses since the last backward, by place.
    """

    __slots__ = ()

    takes = (HalfLoss, Backward)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        if isinstance(event, HalfLoss):
            self.state[event.at] = event
        elif isinstance(event, Backward):
            for loss in self.state.values():
                if isinstance(loss, HalfLoss):
                    yield _outside(loss)
            self.state.clear()


def _outside(event: HalfLoss) -> Broken:
    consequence = "the loss has 8 bits: losses that differ by less than 0.4 % are the same number"
    if event.dtype == "float16":
        consequence = (
            "the loss has 11 bits, and its gradient, the loss scale, must fit float16: at the initial "
            "65536 every gradient is inf, and whenever the scale grows back to it the step is skipped"
        )
    return Broken(
        Problem(
            "loss-outside-autocast",
            event.at,
            f"`{event.loss}` is computed outside of the autocast region, in the {event.dtype} that "
            f"`{event.output.text}` comes out in",
            consequence,
            event.because,
            (("output", event.output.text),),
        ),
        grounded=True,
    )

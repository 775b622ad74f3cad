"""Losses that are looked at while they carry the scale."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event, LossScaled, ScaledLossRead
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.protocol import Broken, Protocol, Verdict


class ScaledLossProtocol(Protocol):
    """MP119. Facts: ("scaled", scaler) -> where it scaled a loss last."""

    __slots__ = ()

    takes = (LossScaled, ScaledLossRead)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one read."""
        match event:
            case LossScaled():
                self.facts[("scaled", event.scaler)] = event.at
            case ScaledLossRead():
                at = self.facts.get(("scaled", event.scaler))
                yield _problem(event, at if isinstance(at, Span) else None)


def _problem(event: ScaledLossRead, scaled: Span | None) -> Broken:
    loss = event.loss.text
    return Broken(
        Problem(
            "scaled-loss-logged",
            event.at,
            f"`{loss}` is the loss times the loss scale: not the number to be logged or compared",
            "the value is 65536 times too large at the initial scale, and jumps by a factor of two "
            "whenever the scale does",
            () if scaled is None else (Related(scaled, "the loss is scaled here"),),
            (("loss", loss),),
        )
    )

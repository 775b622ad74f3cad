"""Gradient penalties that are computed from gradients which carry the loss scale."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event, ScaledGradientTaken, ScaledPartScaled, ScalerUpdate
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Protocol, Verdict


class PenaltyProtocol(Protocol):
    """MP121. State: ("taken", scaler) -> where a scaled gradient was taken, until update()."""

    __slots__ = ()

    takes = (ScaledGradientTaken, ScaledPartScaled, ScalerUpdate)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        match event:
            case ScaledGradientTaken():
                self.state[("taken", event.scaler)] = event
            case ScaledPartScaled():
                taken = self.state.get(("taken", event.scaler))
                if isinstance(taken, ScaledGradientTaken):
                    yield _problem(taken, event)
            case ScalerUpdate():
                self.state.pop(("taken", event.scaler), None)


def _problem(taken: ScaledGradientTaken, event: ScaledPartScaled) -> Broken:
    scaler = event.scaler.text
    return Broken(
        Problem(
            "scaled-gradient-penalty",
            taken.at,
            f"a penalty is computed from these gradients, which `{scaler}` has scaled",
            "they are 65536 times too large at the initial scale, and so is their norm: the penalty drowns "
            "the loss, and changes whenever the scale does",
            (Related(event.at, "the loss with the penalty in it is scaled here"),),
            (("scaler", scaler),),
        )
    )

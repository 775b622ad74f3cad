"""Parameters of 16 bits whose gradients a scaler has to unscale."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Backward, Event, HalfStep, HalfUnscaled
from mpaudit.finding import Problem, Related
from mpaudit.protocols.grad_scaler_problems import RAISES
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

RULE = "scaler-with-half-parameters"


class HalfUnscaledProtocol(Protocol):
    """MP111. State: "region" -> the dtype of the region that the last loss comes from, if it has one.

    A cast under a condition that other paths step without a scaler is left to MP301; of every other
    cast, MP301 is silent where a scaler meets it.
    """

    __slots__ = ()

    takes = (Backward, HalfUnscaled, HalfStep)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        match event:
            case Backward(made_in=None):
                self.state.pop("region", None)
            case Backward():
                self.state["region"] = True
            case HalfStep(chosen=True):
                yield Kept(RULE, event.cast)
            case HalfUnscaled():
                if not event.chosen:
                    yield Kept("half-parameters", event.cast)
                yield _problem(event, under_autocast="region" in self.state)


def _problem(event: HalfUnscaled, *, under_autocast: bool) -> Broken:
    scaler, name = event.scaler.text, event.maker.rpartition(".")[2]
    return Broken(
        Problem(
            RULE,
            event.cast,
            f"the parameters become float16, and `{scaler}` has to unscale their gradients",
            f'{RAISES}"Attempting to unscale FP16 gradients." in the first step: a scaler works on '
            "float32 parameters, of which autocast makes the float16 copies",
            (
                Related(event.made, f"`{name}` is given the parameters here"),
                Related(event.at, "their gradients are unscaled here"),
            ),
            (("scaler", scaler), *((("region", "autocast"),) if under_autocast else ())),
        )
    )

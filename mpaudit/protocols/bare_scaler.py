"""Loss scaling that serves nothing: no low precision anywhere."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from mpaudit.event import Event, Forward, ScaledBare, ScalerMade
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.protocol import Noted, Protocol, Verdict


class BareScalerProtocol(Protocol):
    """MP113. Facts: "forward" -> the last call of a model outside of every region. One for a scaler."""

    __slots__ = ()

    takes = (ScalerMade, Forward, ScaledBare)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Note where scalers are made, and which forward pass their losses come from."""
        match event:
            case ScalerMade():
                yield Noted(BareScalerProtocol, ("made", event.scaler.key, event.at))
            case Forward(region=None):
                self.facts["forward"] = (event.at, event.model.text)
            case Forward():
                self.facts.pop("forward", None)
            case ScaledBare():
                forward = self.facts.get("forward")
                if isinstance(forward, tuple):
                    scaler = event.scaler
                    note = ("bare", scaler.key, scaler.text, event.at, *forward)
                    yield Noted(BareScalerProtocol, note)

    @classmethod
    def conclude(cls, facts: Sequence[Hashable]) -> Iterator[Problem]:
        """One problem for each scaler, at the first forward pass."""
        made: dict[Hashable, Span] = {}
        bare: dict[Span, tuple[Span, str, Span, str]] = {}
        for fact in facts:
            assert isinstance(fact, tuple)
            if fact[0] == "made":
                made[fact[1]] = fact[2]
        for fact in facts:
            assert isinstance(fact, tuple)
            if fact[0] == "bare" and fact[1] in made:
                _, key, scaler, scaled, forward, model = fact
                found = (forward, model, scaled, scaler)
                bare[made[key]] = min(found, bare.get(made[key], found))
        for built, (forward, model, scaled, scaler) in bare.items():
            yield Problem(
                "scaler-without-autocast",
                forward,
                f"`{scaler}` scales the loss, but no autocast region is around `{model}`, nor anywhere else",
                "everything runs in float32, where there is nothing to rescue: no time and no memory is "
                "saved, and every step waits for a check of all gradients",
                (
                    Related(built, "the GradScaler is built here"),
                    Related(scaled, "the loss is scaled here"),
                ),
            )

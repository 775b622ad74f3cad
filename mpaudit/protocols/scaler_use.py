"""What a GradScaler is used with: the dtype of the regions that its losses come from."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from mpaudit.event import Backward, Event, Forward, Region, ScalerMade
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.protocol import Noted, Protocol, Verdict

NOTHING = (
    "bfloat16 reaches down to 1e-38 as float32 does: there is nothing to scale, and every step waits "
    "for a check of all gradients"
)


class ScalerUseProtocol(Protocol):
    """MP110. A scaler that serves float16 anywhere in the program is needed: judged at the end.

    Nor is it needless where the region casts for a device that the model is not on: nothing says in
    what the loss was meant to be computed (MP204 does).
    """

    __slots__ = ()

    takes = (ScalerMade, Backward, Forward)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Note where scalers are made, and what they scale."""
        match event:
            case ScalerMade():
                yield Noted(ScalerUseProtocol, ("made", event.scaler.key, event.at))
                if event.for_bfloat16 is not None:
                    yield Noted(ScalerUseProtocol, ("asked", event.at, event.for_bfloat16))
            case Forward(region=Region() as region, model_device=device):
                if {device, region.device} == {"cpu", "cuda"}:
                    yield Noted(ScalerUseProtocol, ("casts nothing", region.span))
            case Backward(scalers=scalers) if scalers:
                for scaler in scalers:
                    yield Noted(ScalerUseProtocol, ("scales", scaler.key, event.at, event.made_in))

    @classmethod
    def conclude(cls, facts: Sequence[Hashable]) -> Iterator[Problem]:
        """The scalers whose every loss comes from a bfloat16 region, or whose switch asks for one."""
        made: dict[Hashable, Span] = {}
        uses: dict[Span, list[tuple[Span, Region | None]]] = {}
        for fact in facts:
            assert isinstance(fact, tuple)
            if fact[0] == "made":
                made[fact[1]] = fact[2]
        for fact in facts:
            assert isinstance(fact, tuple)
            if fact[0] == "scales" and fact[1] in made:
                uses.setdefault(made[fact[1]], []).append(fact[2:])
        idle = {fact[1] for fact in facts if isinstance(fact, tuple) and fact[0] == "casts nothing"}
        asked = {
            fact[1]: fact[2] for fact in facts if isinstance(fact, tuple) and fact[0] == "asked"
        }
        yield from (_asked(at, place) for at, place in asked.items())
        for at, found in uses.items():
            if at in asked:
                continue
            regions = [region for _, region in found]
            if any(region is not None and region.span in idle for region in regions):
                continue
            if all(region is not None and region.dtype == "bfloat16" for region in regions):
                yield _needless(at, found)


def _asked(at: Span, place: Span) -> Problem:
    return Problem(
        "scaler-with-bfloat16",
        at,
        "this GradScaler is switched on for bfloat16, too",
        NOTHING,
        (Related(place, "bfloat16 is asked for here"),),
    )


def _needless(at: Span, found: list[tuple[Span, Region | None]]) -> Problem:
    backward, region = found[0]
    assert region is not None
    return Problem(
        "scaler-with-bfloat16",
        at,
        "this GradScaler is on, but the losses it scales come from a bfloat16 region",
        NOTHING,
        (
            Related(region.span, "the forward pass runs in bfloat16 here"),
            Related(backward, "the scaled loss goes backward here"),
        ),
    )

"""The cache of cast weights: it lives as long as the outermost autocast region."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from mpaudit.event import Captured, CastCacheCleared, Event, RegionBackward, RegionStep
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict


class _Kept(Struct, frozen=True):
    """What was computed from the copies of one entry of a region, and where the weights changed."""

    entry: Hashable
    backwards: tuple[Span, ...] = ()
    step: Span | None = None


class CastCacheProtocol(Protocol):
    """MP210 and MP216. State: "kept" -> what is known of the region's entry in progress."""

    __slots__ = ()

    takes = (
        RegionBackward,
        RegionStep,
        CastCacheCleared,
        Captured,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        kept = self.state.get("kept")
        match event:
            case RegionBackward():
                if not isinstance(kept, _Kept) or kept.entry != event.entry:
                    kept = _Kept(event.entry)
                if kept.step is not None and event.at in kept.backwards:
                    yield _stale(event, kept.step)
                    yield Kept("backward-in-autocast", event.at)
                    self.state.pop("kept", None)
                    return
                if event.at not in kept.backwards:
                    kept = replace(kept, backwards=(*kept.backwards, event.at))
                self.state["kept"] = kept
            case RegionStep() if isinstance(kept, _Kept) and kept.entry == event.entry:
                self.state["kept"] = replace(kept, step=event.at)
            case Captured():
                yield _captured(event)
            case CastCacheCleared():
                self.state.pop("kept", None)


def _stale(event: RegionBackward, step: Span) -> Broken:
    return Broken(
        Problem(
            "autocast-around-loop",
            event.region.span,
            "one autocast region lasts over several optimizer steps",
            "the weights are cast once and kept until the region is left: every forward pass computes "
            "with the weights of the first one, and the training runs away",
            (
                Related(step, "the weights change here, the cast copies do not"),
                Related(event.at, "this loss was computed from the copies, again and again"),
            ),
        ),
        grounded=True,
    )


def _captured(event: Captured) -> Broken:
    if event.how == "make_graphed_callables":
        consequence = 'it raises "make_graphed_callables does not support the autocast caching."'
    else:
        consequence = (
            'it raises "Cannot insert a Tensor that requires grad as a constant": the cast copies of '
            "the weights are no parameters of the traced model"
        )
    return Broken(
        Problem(
            "cached-casts-in-capture",
            event.at,
            f"`{event.how}` records what runs in an autocast region that keeps the weights it casts",
            consequence,
            (Related(event.region.span, "the region is entered here, with its cache on"),),
        )
    )

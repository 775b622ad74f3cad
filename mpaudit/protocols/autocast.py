"""Autocast regions: what belongs into them, and which device they are for."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import (
    AcceleratorBackward,
    Backward,
    Event,
    Forward,
    OwnedBackward,
    Region,
    SentToDevice,
)
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict


class AutocastProtocol(Protocol):
    """MP201 and MP204.

    State, in a run: ("inside", place of a backward pass) -> the entry of the region it was in last. One
    entry that holds the same backward pass again lasts over the micro-batches of a step, or over a
    loop: that is what `autocast-around-loop` is about, and no backward pass that stands too far in.
    """

    __slots__ = ()

    takes = (
        Backward,
        AcceleratorBackward,
        OwnedBackward,
        Forward,
        SentToDevice,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one event."""
        match event:
            case Backward(inside=region) if region is not None:
                if event.entry is not None:
                    if self.state.get(("inside", event.at)) == event.entry:
                        yield Kept("backward-in-autocast", event.at)
                    self.state[("inside", event.at)] = event.entry
                yield _inside(event.at, region)
            case AcceleratorBackward(inside=region) | OwnedBackward(inside=region) if region:
                yield _inside(event.at, region)
            case Forward(region=region) if region is not None and region.device is not None:
                if {event.model_device, region.device} == {"cpu", "cuda"}:
                    yield _mismatch(event)
                else:
                    yield Kept("autocast-device-mismatch", region.span)
            case SentToDevice():  # what stays on the CPU there is not what the region is for
                yield Kept("autocast-device-mismatch", event.region.span)


def _inside(at: Span, region: Region) -> Broken:
    return Broken(
        Problem(
            "backward-in-autocast",
            at,
            "`backward()` runs inside the autocast region",
            "backward ops already run in the dtypes of their forward ops; inside the region, "
            "custom functions and hooks are cast once more, and the cast cache lives on",
            (Related(region.span, "the region is entered here"),),
        )
    )


def _mismatch(event: Forward) -> Broken:
    assert event.region is not None
    related = [Related(event.at, f"`{event.model.text}` runs here")]
    on_cpu = event.model_device == "cpu"
    if event.model_made is not None and on_cpu:
        related.insert(0, Related(event.model_made, "the model is built here, on the CPU"))
    casts, lives = ("CUDA", "never leaves the CPU") if on_cpu else ("the CPU", "is on the GPU")
    return Broken(
        Problem(
            "autocast-device-mismatch",
            event.region.span,
            f"the region casts for {casts}, but `{event.model.text}` {lives}",
            "nothing is cast: the model runs in float32, as if there were no mixed precision",
            tuple(related),
            (("model", event.model.text),),
        )
    )

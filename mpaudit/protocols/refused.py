"""What CUDA's autocast refuses to run."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event, LossComputed
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Protocol, Verdict

LOSSES = ("BCELoss", "binary_cross_entropy")


class RefusedProtocol(Protocol):
    """MP304; every loss is judged by itself, by the region that the call stands in."""

    __slots__ = ()

    takes = (LossComputed,)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one loss."""
        if not isinstance(event, LossComputed) or event.loss not in LOSSES:
            return
        if event.region is None or event.region.device != "cuda":
            return
        related = [Related(event.region.span, "the region is entered here")]
        if event.shown is not None:
            related.append(Related(event.shown, f"{event.got} is applied here"))
        when = "" if event.region.enabled else ", whenever the region is switched on"
        yield Broken(
            Problem(
                "bce-under-autocast",
                event.at,
                f"`{event.loss}` is called inside a CUDA autocast region, which refuses it",
                'it raises "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to '
                f"autocast\" on the GPU{when}; the CPU's autocast runs it in float32 and shows nothing",
                tuple(related),
            )
        )

"""Own autograd functions under autocast: their backward pass runs where autocast is off."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event, FunctionApplied
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.protocol import Broken, Protocol, Verdict


class AutogradFunctionProtocol(Protocol):
    """MP205 and MP215, where such a function is applied in a region; every event stands for itself."""

    __slots__ = ()

    takes = (FunctionApplied,)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one event."""
        if isinstance(event, FunctionApplied):
            related = (
                Related(event.at, "it is applied here"),
                Related(event.region.span, "in this autocast region"),
            )
            yield Broken(problem(event.flaw, event.name, event.place, related))


def problem(flaw: str, name: str, place: Span, related: tuple[Related, ...] = ()) -> Problem:
    """What is wrong with the autograd function `name`, whose `flaw` shows at `place`."""
    if flaw == "recomputes":
        return Problem(
            "checkpoint-drops-autocast",
            place,
            f"`{name}.backward` computes the forward pass again, without its autocast",
            "the forward pass ran in half precision, its recomputation runs in float32: twice the "
            "memory that was to be saved, other numbers, and errors where both meet",
            related,
        )
    return Problem(
        "unprotected-autograd-function",
        place,
        f"`{name}` multiplies matrices in both passes, and autocast reaches only the forward one",
        "the gradient is in half precision, the saved tensors are in float32: the product in "
        '`backward` raises "expected m1 and m2 to have the same dtype", or mixes them up',
        related,
    )

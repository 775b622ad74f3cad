"""Logits or probabilities, not both: what a loss takes, and what it is given."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event, LossComputed
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict


class LogitsProtocol(Protocol):
    """MP403; every loss is judged by itself."""

    __slots__ = ()

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one loss."""
        if not isinstance(event, LossComputed) or event.loss not in (
            "CrossEntropyLoss",
            "cross_entropy",
        ):
            return
        if event.got in ("softmax", "log_softmax"):
            yield _softmax_before_cross_entropy(event)
        else:
            yield Kept("softmax-before-cross-entropy", event.at)


def _softmax_before_cross_entropy(event: LossComputed) -> Broken:
    consequence = (
        "softmax is applied twice: the loss of a 10-class problem cannot fall below 1.461, and "
        "gradients vanish for confident predictions"
        if event.got == "softmax"
        else "log_softmax is computed twice; NLLLoss takes what the model returns"
    )
    related = (Related(event.shown, f"{event.got} is applied here"),) if event.shown else ()
    return Broken(
        Problem(
            "softmax-before-cross-entropy",
            event.at,
            f"`{event.loss}` applies log_softmax itself, and is given the result of {event.got}",
            consequence,
            related,
        )
    )

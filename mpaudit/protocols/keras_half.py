"""Tensors of 16 bits in Keras where they do harm; every event is judged by itself."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event, TensorsMixed
from mpaudit.finding import Problem
from mpaudit.protocols.protocol import Broken, Protocol, Verdict

PINNED = "hardcoded-layer-dtype"


class KerasHalfProtocol(Protocol):
    """MP507."""

    __slots__ = ()

    takes = (TensorsMixed,)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one event."""
        match event:
            case TensorsMixed():
                yield _mixed(event)


def _mixed(event: TensorsMixed) -> Broken:
    return Broken(
        Problem(
            PINNED,
            event.at,
            f"`{event.pinned.text}` is {event.pinned_dtype}, and meets `{event.policy.text}`, which is "
            f"{event.policy_dtype} in this `call`",
            f'TensorFlow converts neither, and raises: "has type {event.pinned_dtype} that does not match '
            f'type {event.policy_dtype}"',
            event.because,
        ),
        grounded=True,
    )

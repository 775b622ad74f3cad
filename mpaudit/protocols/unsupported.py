"""Where tensors of 16 bits must not go: NumPy, and operations that have no such kernel."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event, HalfGiven
from mpaudit.finding import Problem
from mpaudit.protocols.protocol import Broken, Protocol, Verdict


class UnsupportedProtocol(Protocol):
    """MP307 and MP310; every call is judged by itself."""

    __slots__ = ()

    takes = (HalfGiven,)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one call."""
        if not isinstance(event, HalfGiven):
            return
        tensor = f"`{event.tensor.text}`" if event.tensor.text else "a tensor"
        if event.to_numpy:
            rule = "bfloat16-to-numpy"
            message = (
                f"`{event.operation}` converts {tensor}, which is bfloat16; NumPy has no such type"
            )
            consequence = 'it raises "Got unsupported ScalarType BFloat16"'
        else:
            rule = "linalg-in-half"
            message = f"`{event.operation}` is given {tensor}, which is {event.dtype}"
            consequence = (
                "it raises a RuntimeError: there is no kernel for 16 bits, and no cast to float32"
            )
        yield Broken(
            Problem(rule, event.at, message, consequence, event.because, _how(event)),
            grounded=True,
        )


def _how(event: HalfGiven) -> tuple[tuple[str, str], ...]:
    if event.held:
        return (("how", "held"),)
    return (("how", "method" if event.method else "function"),)

"""Parameters that are themselves of 16 bits: what an optimizer makes of them."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event, HalfStep, HalfVariableTrained
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Protocol, Verdict

VANISHING = 2.0**-25
"""Numbers up to here are rounded to zero in float16."""
_LOST = {"float16": "0.024 %", "bfloat16": "0.2 %"}
"""The share of a weight below which an update is rounded away: a quarter of the dtype's epsilon."""


class HalfParametersProtocol(Protocol):
    """MP301 and MP308; every step is judged by itself."""

    __slots__ = ()

    takes = (HalfStep, HalfVariableTrained)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one step."""
        if isinstance(event, HalfVariableTrained):
            yield _half_variable(event)
        if not isinstance(event, HalfStep):
            return
        if not event.once:  # a single update that is rounded away shows in no training
            yield _half_parameters(event)
        if event.dtype == "float16" and event.eps is not None and event.eps <= VANISHING:
            yield _epsilon(event)


def _half_variable(event: HalfVariableTrained) -> Broken:
    return Broken(
        Problem(
            "half-parameters",
            event.at,
            f"`{event.variable}` is itself {event.dtype}, and is trained",
            f"an update below {_LOST[event.dtype]} of a weight is rounded away: 1000 steps of 1e-4 leave "
            "a weight of 1 at 1, where float32 comes to 0.9",
            (Related(event.trained, "it is trained here"),),
            (("variable", event.variable),),
        ),
        grounded=True,
    )


def _half_parameters(event: HalfStep) -> Broken:
    name = event.maker.rpartition(".")[2]
    return Broken(
        Problem(
            "half-parameters",
            event.cast,
            f"the parameters themselves become {event.dtype}, and `{name}` trains them",
            f"an update below {_LOST[event.dtype]} of a weight is rounded away: 1000 steps of 1e-4 leave "
            "a weight of 1 at 1, where float32 comes to 0.9",
            (
                Related(event.made, f"`{name}` is given the parameters here"),
                Related(event.at, "and steps them here"),
            ),
            (("model", event.model),),
        )
    )


def _epsilon(event: HalfStep) -> Broken:
    name = event.maker.rpartition(".")[2]
    return Broken(
        Problem(
            "adam-epsilon-in-half",
            event.made,
            f"`{name}` adds eps={event.eps:g} to the root of its second moment, and float16 rounds that to 0",
            "it divides by zero: with gradients of 1e-3 every parameter is nan or inf after one step",
            (
                Related(event.cast, "the parameters become float16 here"),
                Related(event.at, "they are stepped here"),
            ),
        )
    )

"""Tensors of two dtypes where one was meant: in float32 islands, and in writes by index."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import DtypesMixed, Event, HalfKept
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Protocol, Verdict

REFUSALS = {
    "[]": "Index put requires the source and destination dtypes match",
    "index_put_": "Index put requires the source and destination dtypes match",
    "index_add_": "must have the same scalar type",
    "index_add": "must have the same scalar type",
    "index_copy_": "self and source expected to have the same dtype",
    "index_copy": "self and source expected to have the same dtype",
    "masked_scatter_": "masked_scatter: expected self and source to have same dtypes",
    "masked_scatter": "masked_scatter: expected self and source to have same dtypes",
    "scatter_": "scatter(): Expected self.dtype to be equal to src.dtype",
    "scatter": "scatter(): Expected self.dtype to be equal to src.dtype",
    "scatter_add_": "scatter(): Expected self.dtype to be equal to src.dtype",
    "scatter_reduce_": "scatter(): Expected self.dtype to be equal to src.dtype",
    "scatter_reduce": "scatter(): Expected self.dtype to be equal to src.dtype",
}
"""What torch says when it is asked to write values of another dtype."""


class MixedDtypesProtocol(Protocol):
    """MP206 and MP212.

    State: the tensors that each float32 island was already found to have let in.
    """

    __slots__ = ()

    takes = (HalfKept, DtypesMixed)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        if isinstance(event, HalfKept):
            told = (event.off, event.source)
            if self.state.setdefault(told, event.at) == event.at:
                yield _kept(event)
        elif isinstance(event, DtypesMixed) and event.operation in REFUSALS:
            yield _mixed(event)


def _kept(event: HalfKept) -> Broken:
    tensor = event.tensor.text or "a tensor"
    return Broken(
        Problem(
            "half-into-disabled-autocast",
            event.at,
            f"`{event.operation}` gets `{tensor}` in {event.dtype}, in a region that is switched off",
            "a region that is switched off converts nothing: what was meant to be computed in float32 "
            f"is computed in {event.dtype}, or refused next to float32 weights",
            (Related(event.off, "autocast is switched off here"), *event.because),
            (("tensor", event.tensor.text),),
        ),
        grounded=True,
    )


def _mixed(event: DtypesMixed) -> Broken:
    return Broken(
        Problem(
            "inplace-dtype-mismatch",
            event.at,
            f"{event.source_dtype} values are written by index into `{event.target.text}`, which is "
            f"{event.target_dtype}",
            f'it raises "{REFUSALS[event.operation]}"; autocast does not cast what is written in place',
            event.because,
            (("target", event.target.text), ("source", event.source.text)),
        ),
        grounded=True,
    )

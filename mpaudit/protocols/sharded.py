"""Scalers and sharded gradients: all ranks must skip a step, or none."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event, PlainScalerStep
from mpaudit.finding import Problem
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

RULE = "fsdp-with-plain-grad-scaler"


class ShardedProtocol(Protocol):
    """MP607; every step is judged by itself, where its scaler was built."""

    __slots__ = ()

    takes = (PlainScalerStep,)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one step."""
        if not isinstance(event, PlainScalerStep):
            return
        if not event.sharded:
            yield Kept(RULE, event.at)
            return
        yield Broken(
            Problem(
                RULE,
                event.at,
                "a plain GradScaler steps parameters that FSDP has sharded: each rank looks for inf in its "
                "own part only",
                "where a part of the gradients overflows, its rank skips the step and halves its scale, and "
                "the others step: from there on the ranks train different models",
                event.because,
                (("same_file", str(event.same_file)),),
            ),
            grounded=True,
        )

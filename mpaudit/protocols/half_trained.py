"""Parameters of float16 that a library has to unscale the gradients of."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event, HalfTrained
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Protocol, Verdict

RULE = "half-checkpoint-with-fp16"


class HalfTrainedProtocol(Protocol):
    """MP611; every training is judged by itself."""

    __slots__ = ()

    takes = (HalfTrained,)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one training."""
        if not isinstance(event, HalfTrained):
            return
        related = [Related(event.at, "it is trained here, and its gradients have to be unscaled")]
        if event.asked is not None:
            related.insert(0, Related(event.asked, "fp16 is asked for here, which scales the loss"))
        yield Broken(
            Problem(
                RULE,
                event.cast,
                f"the parameters themselves are float16, and {event.trainer} trains them with fp16",
                'it raises "Attempting to unscale FP16 gradients." in the first step: loss scaling works on '
                "float32 parameters, of which autocast makes the float16 copies",
                tuple(related),
            )
        )

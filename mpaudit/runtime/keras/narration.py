"""The events of a run, told to the tracer iteration by iteration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from mpaudit.event import Event, LayerMade, ModelMade, OptimizerWrapped, PolicySet
from mpaudit.finding import Moment
from mpaudit.runtime.tracer import Tracer

_TWICE = 2
_BUILT = (LayerMade, ModelMade, PolicySet, OptimizerWrapped)
"""What belongs to no iteration, and is told at once."""


class Narration:
    """What happens, in order; an iteration ends when gradients are applied.

    `before` is called before an event: what waited for something else to happen is told first. The
    events of an iteration that came twice already, in the same order, are not told again. While `aside`
    says so nothing is told: of replicas that do the same, one is enough.
    """

    def __init__(self, tracer: Tracer, aside: Callable[[], object] = lambda: False) -> None:
        self._aside = aside
        self.before: Callable[[], None] = lambda: None
        self._tracer = tracer
        self._iteration: list[Event] = []
        self._seen: Counter[tuple[Event, ...]] = Counter()

    def tell(self, event: Event) -> None:
        """Something happened."""
        if self._aside():
            return
        if not isinstance(event, LayerMade | ModelMade):
            self.before()
        if isinstance(event, _BUILT):
            self._feed(self._tracer.step)
            self._tracer.feed(event, Moment(self._tracer.step()))
        else:
            self._iteration.append(event)

    def tell_once(self, event: Event) -> None:
        """The same, of what may be done to each tensor of several by itself."""
        if event not in self._iteration:
            self.tell(event)

    def ended(self, step: Callable[[], int]) -> None:
        """An iteration is over, and `step`, asked only if need be, says which attempt it leads to."""
        if not self._aside():
            self._feed(step)

    def drain(self) -> None:
        """Feed what waits for the end of its iteration."""
        self.before()
        self._feed(self._tracer.step)

    def _feed(self, step: Callable[[], int]) -> None:
        told, self._iteration = tuple(self._iteration), []
        self._seen[told] += 1
        if told and self._seen[told] <= _TWICE:
            moment = Moment(step())
            for event in told:
                self._tracer.feed(event, moment)

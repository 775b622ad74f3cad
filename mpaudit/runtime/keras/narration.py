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
        self._iteration: list[tuple[Event, Moment]] = []
        self._seen: Counter[tuple[Event, ...]] = Counter()
        self._attempts = 0

    def tell(self, event: Event) -> None:
        """Something happened."""
        if self._aside():
            return
        now = Moment(step=self._attempts)
        if not isinstance(event, LayerMade | ModelMade):
            self.before()
        if isinstance(event, _BUILT):
            self._feed()
            self._tracer.feed(event, now)
        else:
            self._iteration.append((event, now))

    def tell_once(self, event: Event) -> None:
        """The same, of what may be done to each tensor of several by itself."""
        if all(event != told for told, _ in self._iteration):
            self.tell(event)

    def ended(self) -> None:
        """An iteration is over."""
        if self._aside():
            return
        self._attempts += 1
        self._feed()

    def drain(self) -> None:
        """Feed what waits for the end of its iteration."""
        self.before()
        self._feed()

    def _feed(self) -> None:
        told, self._iteration = self._iteration, []
        shape = tuple(event for event, _ in told)
        self._seen[shape] += 1
        if self._seen[shape] <= _TWICE:
            for event, moment in told:
                self._tracer.feed(event, moment)

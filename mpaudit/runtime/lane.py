"""The machines that judge a run; threads that train side by side have their own."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from mpaudit.event import Event, OptimizerStep, ScalerUpdate
from mpaudit.protocols.protocol import Protocol, Verdict

_ENDS = (ScalerUpdate, OptimizerStep)
"""Events of which one is the mark that a cycle ends with: the first that comes."""
Way = tuple[object, ...]
"""What an event is made of: its kind, the place in the code, and its facts."""
_LONG = 64  # events of a cycle that is remembered, at most
_TRIES = 8  # how often it is looked whether the protocols are where they were


class Judges:
    """Protocols, by the events that they take.

    A training does the same in step after step. Once a cycle of events is the one before, and the
    protocols are at its end where they were at its beginning, they would say of the next such cycle
    what they have said: it is not fed to them, until something else comes.
    """

    def __init__(self, machines: Sequence[Protocol]) -> None:
        self._machines = machines
        self._takers: dict[type[Event], list[Protocol]] = {}
        self._alone = True  # no others know what is said once of an object
        self._mark: Event | None = None
        self._cycle: list[Event] = []  # since the mark
        self._last: list[Event] = []  # the cycle before
        self._states: list[object] | None = None  # of the protocols at the mark
        self._tries = 0
        self._length = 0  # of the last cycle, once it is not fed again
        self._ways: list[Way | None] = []  # by which its events were made last
        self._again: int | None = (
            None  # so many of the last cycle have come again, and were not fed
        )

    def repeats(self, way: Way) -> bool:
        """Whether an event comes that was the next one in the cycle before as well, and was made in this
        `way`: nothing is said of it, and it need not be made."""
        again = self._again
        if again is None or self._ways[again] != way:
            return False
        self._again = again + 1 if again + 1 < self._length else 0
        return True

    def feed(self, event: Event, way: Way | None = None) -> list[Verdict]:
        """What the protocols say of an event that they have not said of the same before.

        An event that is made in the same `way` is an equal one.
        """
        again = self._again
        if again is not None:
            if event == self._last[again]:
                self._ways[again] = way
                self._again = again + 1 if again + 1 < self._length else 0
                return []
            self._catch_up()
        found = self._fed(event)
        if self._alone:
            self._note(event)
        return found

    def _fed(self, event: Event) -> list[Verdict]:
        kind = type(event)
        if kind not in self._takers:
            self._takers[kind] = [each for each in self._machines if issubclass(kind, each.takes)]
        return [verdict for each in self._takers[kind] for verdict in each.feed(event)]

    def _catch_up(self) -> None:
        """Something else comes: feed what was not fed of this cycle. What they say of it is said."""
        self._cycle, self._again = self._last[: self._again], None
        for each in self._cycle:
            self._fed(each)

    def _note(self, event: Event) -> None:
        if len(self._cycle) == _LONG:
            self._cycle, self._last, self._mark, self._states = [], [], None, None
        self._cycle.append(event)
        if self._mark is None and isinstance(event, _ENDS):
            self._mark = event
        if event == self._mark:
            self._turn()

    def _turn(self) -> None:
        before, self._last, self._cycle = self._last, self._cycle, []
        if before != self._last:
            self._states, self._tries = None, 0
        elif self._tries < _TRIES:
            self._tries += 1
            states: list[object] = [
                (number, each.state.copy(), each.facts.copy())
                for number, each in enumerate(self._machines)
                if each.state or each.facts
            ]
            same, self._states = states == self._states, states
            if same:
                self._again, self._length, self._states = 0, len(self._last), None
                self._ways = [None] * self._length

    def others(self) -> Judges:
        """Judges of another order of events, who know what is said once of an object."""
        if self._again is not None:
            self._catch_up()
        found = Judges([type(each)(facts=each.facts) for each in self._machines])
        self._alone = found._alone = False
        return found


class Lane(threading.local):
    """The judges of this thread: `judges` in the thread `home`, others elsewhere, as long as it lasts."""

    def __init__(self, judges: Judges, home: int) -> None:
        self.judges = judges if threading.get_ident() == home else judges.others()

"""The machines that judge a run; threads that train side by side have their own."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from mpaudit.event import Event
from mpaudit.protocols.protocol import Protocol


class Judges:
    """Protocols, by the events that they take."""

    def __init__(self, machines: Sequence[Protocol]) -> None:
        self._machines = machines
        self._takers: dict[type[Event], list[Protocol]] = {}

    def taking(self, kind: type[Event]) -> list[Protocol]:
        """Those that take events of a kind."""
        if kind not in self._takers:
            takers = [each for each in self._machines if issubclass(kind, each.takes)]
            self._takers[kind] = takers
        return self._takers[kind]

    def others(self) -> Judges:
        """Judges of another order of events, who know what is said once of an object."""
        return Judges([type(each)(facts=each.facts) for each in self._machines])


class Lane(threading.local):
    """The judges of this thread: `judges` in the thread `home`, others elsewhere, as long as it lasts."""

    def __init__(self, judges: Judges, home: int) -> None:
        self.judges = judges if threading.get_ident() == home else judges.others()

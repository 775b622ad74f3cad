"""Options that a library refuses together."""

from __future__ import annotations

from mpaudit.event.core import Event
from mpaudit.finding import Related


class CombinationRefused(Event, frozen=True, kw_only=True):
    """What is asked for here raises `error`, because of `what`; `instead` says what works."""

    what: str
    error: str
    instead: str
    because: tuple[Related, ...] = ()

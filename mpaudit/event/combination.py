"""Options that a library refuses together."""

from __future__ import annotations

from dataclasses import dataclass

from mpaudit.event.core import Event
from mpaudit.finding import Related


@dataclass(frozen=True, slots=True, kw_only=True)
class CombinationRefused(Event):
    """What is asked for here raises `error`, because of `what`; `instead` says what works."""

    what: str
    error: str
    instead: str
    because: tuple[Related, ...] = ()

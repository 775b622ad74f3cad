"""What a script asks of a library that trains for it: which precision."""

from __future__ import annotations

from mpaudit.event.core import Event


class PrecisionAsked(Event, frozen=True, kw_only=True):
    """`maker` takes two switches of which at most one may be on; `both` says that both are."""

    maker: str
    switches: tuple[str, str]
    both: bool


class PrecisionRefused(Event, frozen=True, kw_only=True):
    """`maker` does not take an argument, or not this value for it: it raises `error`.

    `value` is the literal that was given, "" where the argument itself is refused, since the release
    `since` of the library; `instead` is what is meant, "" where nobody can tell.
    """

    maker: str
    argument: str
    error: str
    value: str = ""
    instead: str = ""
    since: str = ""

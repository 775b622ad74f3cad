"""What every event has: a place, and the objects it is about.

An event holds no syntax node, tensor or hook: objects are `Ref`s, places are `Span`s. Three-valued
facts are `bool | None`, None meaning "not known"; a protocol never reports on what is not known.
"""

from __future__ import annotations

from collections.abc import Hashable

from msgspec import Struct

from mpaudit.finding import Span


class Ref(Struct, frozen=True):
    """An object of the training: equal keys are the same object; `text` is how the user spells it."""

    key: Hashable
    text: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


class Region(Struct, frozen=True):
    """An autocast region that is entered: device type, dtype name and switch as far as known.

    `possible` are the dtypes among which an open question decides, where one does.
    """

    span: Span
    device: str | None
    dtype: str | None
    enabled: bool | None
    possible: frozenset[str] = frozenset()

    def may_cast_to(self, *dtypes: str) -> bool:
        """Whether the region casts to one of these, or does so in one of the cases that it provides for."""
        return self.dtype in dtypes or not self.possible.isdisjoint(dtypes)


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened at a place.

    `occasional` says that it stands under a condition that changes from iteration to iteration (the
    guard of a gradient accumulation); `counted` that this condition counts the passes, by a
    remainder.
    """

    at: Span
    occasional: bool = False
    counted: bool = False


class LostSight(Event, frozen=True, kw_only=True):
    """Objects went where they cannot be followed: what is known of them no longer holds.

    `elsewhere` says that the code they went to is looked at on its own, so that nothing of it is missed.
    """

    objects: frozenset[Hashable]
    elsewhere: bool = False

"""What every event has: a place, and the objects it is about.

An event holds no syntax node, tensor or hook: objects are `Ref`s, places are `Span`s. Three-valued
facts are `bool | None`, None meaning "not known"; a protocol never reports on what is not known.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from mpaudit.finding import Moment, Span

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform

    E = TypeVar("E", bound="Event")
else:

    def dataclass_transform(**_: Any) -> Any:
        """What tells a type checker that a decorator makes dataclasses."""
        return lambda function: function


@dataclass_transform(kw_only_default=True, frozen_default=True)
def event(made: type[E]) -> type[E]:
    """Make a class of events a dataclass; that nothing is assigned to is up to the type checker.

    A dataclass compiles its methods, each of them for each class: for all events that was a fifth of the
    time that a check of one file takes. So only `__init__` is made here, the others are those of `Event`.
    """
    finished = dataclass(slots=True, kw_only=True, repr=False, eq=False)(made)
    names = [each.name for each in fields(finished)]
    finished.values = attrgetter(*(name for name in names if name != "moment"))
    return finished


@dataclass(frozen=True, slots=True)
class Ref:
    """An object of the training: equal keys are the same object; `text` is how the user spells it."""

    key: Hashable
    text: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True, slots=True)
class Region:
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


@event
class Event:
    """Something that happened at a place.

    `occasional` says that it stands under a condition that changes from iteration to iteration (the
    guard of a gradient accumulation); `counted` that this condition counts the passes, by a
    remainder. `moment` is set by a run: the same at another moment is equal.
    """

    at: Span
    occasional: bool = False
    counted: bool = False
    moment: Moment | None = None
    values: ClassVar[attrgetter[Any]]
    """Makes a tuple of all that an event of this kind says, whenever it happens."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return bool(self.values(self) == self.values(other))

    def __hash__(self) -> int:
        return hash(self.values(self))

    def __repr__(self) -> str:
        values = (f"{each.name}={getattr(self, each.name)!r}" for each in fields(self))
        return f"{type(self).__name__}({', '.join(values)})"


@event
class LostSight(Event):
    """Objects went where they cannot be followed: what is known of them no longer holds.

    `elsewhere` says that the code they went to is looked at on its own, so that nothing of it is missed.
    """

    objects: frozenset[Hashable]
    elsewhere: bool = False

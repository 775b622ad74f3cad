"""Groups that were found apart and have read a file in common: they are one, as one engine has it.

What such a file defines is looked up by all of them; that alone changes nothing. Where more was asked of
a file (a function of it was followed, a verdict speaks of it), what is true of one group may depend on
another: they have to be followed again, together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from mpaudit.following import Group

T = TypeVar("T")


def concerned(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups, more than one at a time, that have to be followed again together."""
    return [each for each in heaps(groups, lambda group: group.touched) if len(each) > 1]


def joined(groups: Sequence[Group], position: Mapping[str, int]) -> list[Group]:
    """The groups, those as one that have read a file in common; names are in order of `position`."""
    found = [_one(each, position) for each in heaps(groups, lambda group: group.read)]
    return sorted(found, key=lambda group: position[group.names[0]])


def _one(groups: list[Group], position: Mapping[str, int]) -> Group:
    ordered = sorted(groups, key=lambda group: min(map(position.__getitem__, group.names)))
    names = sorted((n for group in groups for n in group.names), key=position.__getitem__)
    return Group(
        names,
        set().union(*(group.read for group in groups)),
        set().union(*(group.touched for group in groups)),
        set().union(*(group.asked for group in groups)),
        set().union(*(group.roots for group in groups)),
        [each for group in ordered for each in group.problems],
        {name: each for group in ordered for name, each in group.exhausted.items()},
    )


def heaps(items: Sequence[T], marks: Callable[[T], Iterable[Hashable]]) -> list[list[T]]:
    """Items in heaps, in order: two are in one if they have a mark in common, or through others."""
    found: dict[int, list[T]] = {}
    owner: dict[Hashable, int] = {}
    leader: list[int] = []
    for number, item in enumerate(items):
        leader.append(number)
        for mark in marks(item):
            other = owner.setdefault(mark, number)
            while leader[other] != other:
                leader[other] = leader[leader[other]]
                other = leader[other]
            leader[other] = number
    for number, item in enumerate(items):
        top = number
        while leader[top] != top:
            top = leader[top]
        found.setdefault(top, []).append(item)
    return list(found.values())

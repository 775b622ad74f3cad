"""What nobody in a program does to a scaler: what its files say of methods that are never called.

A function that nobody in view calls may be one part of an iteration, and its caller may do the rest. Where
no file that has to do with it calls `update()` on anything that could be the scaler, nobody does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from msgspec import Struct, field

from mpaudit.source.text.surrounding import Known, told

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module
    from mpaudit.source.text.project import Project

METHODS = ("scale", "unscale_", "update")
_CALLED = re.compile(r"(scale|unscale_|update)\s*\(")
_HOLDER = re.compile(r"(\w+)(?:\[[^\]\n]*\])?\s*\.\s*\Z")
_REACH = 200
"""Characters before a method's name in which to look for what it is called on."""

Called = dict[str, frozenset[str]]
"""Method -> the last names of what it is called on."""

Calls = tuple[tuple[str, str], ...]
"""The methods that a text calls, each with the last name of what it is called on."""


class _Read(Struct):
    """What was worked out for a project: the answers by file, the calls in each text."""

    answers: dict[str, Called | None] = field(default_factory=dict)
    calls: Known[Calls] = field(default_factory=dict)


_known: WeakKeyDictionary[Project, _Read] = WeakKeyDictionary()


def never_called(name: str, module: Module, project: Project) -> frozenset[str]:
    """The methods of a scaler that no file around `module` calls; `name` is what holds it there.

    A name with an underscore in front is its object's own; anything else may be called otherwise
    elsewhere, as long as it is still called a scaler.
    """
    read = _known.setdefault(project, _Read())
    if module.filename not in read.answers:
        read.answers[module.filename] = _called(module, project, read)
    called = read.answers[module.filename]
    if called is None:
        return frozenset()
    return frozenset(
        method
        for method in METHODS
        if not any(
            other == name or (not name.startswith("_") and "scal" in other.lower())
            for other in called[method]
        )
    )


def _called(module: Module, project: Project, read: _Read) -> Called | None:
    calls = told(module, project, _calls, read.calls)
    if calls is None:
        return None
    found: dict[str, set[str]] = {method: set() for method in METHODS}
    for each in calls:
        for method, holder in each:
            found[method].add(holder)
    return {method: frozenset(names) for method, names in found.items()}


def _calls(text: str) -> Calls:
    """What a text calls; methods are looked for first, by their letters, which is 20 times faster."""
    found = []
    for match in _CALLED.finditer(text):
        start = match.start()
        holder = _HOLDER.search(text[max(0, start - _REACH) : start])
        if holder is not None:
            found.append((match[1], holder[1]))
    return tuple(found)

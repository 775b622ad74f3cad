"""What code may have set that was not followed: until then a value is known, and afterwards it is not.

Most of what a program defines says nothing of mixed precision, and is not worth following. Some of it sets
options all the same: an `__init__`, a `load()` of a configuration, a function that reads the command line.
"""

from __future__ import annotations

import ast

from msgspec import Struct

from mpaudit.source.engine.member import ANY, BY_NAME, name_of, named
from mpaudit.source.engine.path import Identities, Path, lookup
from mpaudit.source.engine.values import TRUE, UNKNOWN, Class, Const, Function, Thing, Value
from mpaudit.source.text.memo import by_node
from mpaudit.source.text.walk import walk

CLASS = "__class__"
"""The attribute that makes another object of one: what was known of it may not hold any more."""


class Sets(Struct, frozen=True):
    """The attributes that a function sets, of whatever object, and the names of its module."""

    attributes: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()


@by_node
def sets(function: ast.AST) -> Sets:
    """What a function itself sets; ANY stands for attributes whose names nobody can read in the text."""
    attributes: set[str] = set()
    names: set[str] = set()
    for node in walk(function):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            attributes.add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setattr":
            attributes.add(named(node))
        elif isinstance(node, ast.Global):
            names.update(node.names)
        elif name_of(node) in BY_NAME:
            attributes.add(ANY)
    return Sets(frozenset(attributes), frozenset(names))


def not_followed(
    function: Function, receiver: Value | None, path: Path, identities: Identities
) -> None:
    """Of what a function sets that is not followed, no plain value is known any more.

    `receiver` is the object whose method it is, that is made by it, or that it is given first.
    """
    told = sets(function.node)
    if told.names and function.scopes:
        for name in told.names:
            _forget((function.scopes[-1], name), path, identities)
    if not isinstance(receiver, Thing):
        return
    if CLASS in told.attributes:
        path.heap[(receiver.uid, CLASS)] = UNKNOWN
    if function.owner is None:
        return
    if ANY in told.attributes:
        forget_held(receiver, path, identities)
        path.learn(receiver, by_name=TRUE)
    owner = path.known(receiver, "@class")
    for name in told.attributes:
        default = lookup(path, owner, name) if isinstance(owner, Class) else None
        _forget((receiver.uid, name), path, identities, default)


def is_default(base: Thing, path: Path) -> bool:
    """Whether what a class has for an attribute may not be what an object of it holds: set by name."""
    return path.known(base, "@by_name") is not None


def forget_held(owner: Thing, path: Path, identities: Identities, begins: str = "") -> None:
    """No plain value is known any more of what an object holds by names that begin like this."""
    for name, _ in list(path.heap.of(owner.uid)):
        if name[0] not in "_@" and name.startswith(begins):
            _forget((owner.uid, name), path, identities)


def _forget(
    place: tuple[int, str], path: Path, identities: Identities, default: Value | None = None
) -> None:
    """What a place holds is not known any more, if it was a plain value."""
    if isinstance(path.heap.get(place) or default, Const):
        since = path.frame.iteration
        number = identities.number("set out of sight", *place, since)
        path.heap[place] = Thing(number, since=since, text=place[1])

"""What a name can hold while a program is executed abstractly.

A value is known by its origin, never by its spelling. Everything that has an identity is a `Thing`; what
is known of it beyond its kind lives in the path's heap, under hidden names that start with "@".
"""

from __future__ import annotations

import ast
from collections.abc import Hashable
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

Iteration = tuple[int, int]
"""One pass through a loop: nesting depth, and the identity of that very pass; (0, 0) outside."""

NOWHERE: Iteration = (0, 0)


class Value(Struct, frozen=True):
    """The root of all values."""


class Const(Value, frozen=True):
    """A literal: None, a truth value, number, string or bytes."""

    value: Hashable

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Const)
            and type(self.value) is type(other.value)
            and self.value == other.value
        )

    def __hash__(self) -> int:
        return hash((type(self.value), self.value))


NONE = Const(None)
TRUE = Const(True)
FALSE = Const(False)
UNKNOWN = Const("?")
"""A hidden fact that cannot be known; no protocol reports on it."""


class Thing(Value, frozen=True):
    """An object with an identity; two things are the same if and only if their `uid` is.

    `kind` names what it is ("GradScaler", "Optimizer", "Module", ...), "" if nothing is known.
    `since` is the innermost loop pass that it depends on: what was made before the loop is the same
    in every pass.
    """

    uid: int
    kind: str = ""
    since: Iteration = NOWHERE
    text: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and other.uid == self.uid

    def __hash__(self) -> int:
        return self.uid


class External(Value, frozen=True):
    """Something a library defines, by its full dotted name."""

    name: str


class Function(Value, frozen=True):
    """A function or lambda of the project, with the scopes it closes over, innermost first."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    module: Module
    scopes: tuple[int, ...]
    owner: Class | None = None
    decorators: tuple[Value, ...] = ()

    @property
    def name(self) -> str:
        """Its name as defined."""
        return "<lambda>" if isinstance(self.node, ast.Lambda) else self.node.name


class Class(Value, frozen=True):
    """A class of the project; its attributes are in the heap under `uid`."""

    node: ast.ClassDef
    module: Module
    uid: int
    bases: tuple[Value, ...] = ()


class Bound(Value, frozen=True):
    """`receiver.name` before it is called: a method of the project (`function`) or of a library."""

    receiver: Value
    name: str
    function: Function | None = None


class Namespace(Value, frozen=True):
    """A module of the project that was imported; its globals are in the heap under `uid`."""

    module: Module
    uid: int


class Partial(Value, frozen=True):
    """`functools.partial(function, *arguments, **keywords)`."""

    function: Value
    arguments: tuple[Value, ...]
    keywords: tuple[tuple[str, Value], ...]


class Choice(Value, frozen=True, cache_hash=True):
    """One of two values, depending on a condition that is not known yet."""

    condition: Thing
    yes: Value
    no: Value


class Pack(Value, frozen=True, cache_hash=True):
    """A tuple, or the known items of a list, in order."""

    items: tuple[Value, ...]


class Imported(Value, frozen=True):
    """`from module import attribute` of a project module, looked up when it is first used.

    `attribute` is None for the module itself.
    """

    module: Module
    attribute: str | None


def newest(*values: object) -> Iteration:
    """The innermost loop pass that any of these values depends on."""
    latest = NOWHERE
    for value in values:
        if isinstance(value, Thing):
            since = value.since
        elif isinstance(value, Pack):
            since = newest(*value.items)
        elif isinstance(value, Choice):
            since = newest(value.condition, value.yes, value.no)
        else:
            continue
        if since > latest:
            latest = since
    return latest

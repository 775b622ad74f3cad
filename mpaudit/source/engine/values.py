"""What a name can hold while a program is executed abstractly.

A value is known by its origin, never by its spelling. Everything that has an identity is a `Thing`; what
is known of it beyond its kind lives in the path's heap, under hidden names that start with "@".

Nobody writes to a value. Those that are made by the hundred thousand are not declared frozen all the same:
to make one would take four times the time.
"""

from __future__ import annotations

import ast
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

Iteration = tuple[int, int]
"""One pass through a loop: nesting depth, and the identity of that very pass; (0, 0) outside."""

NOWHERE: Iteration = (0, 0)


class Value:
    """The root of all values."""

    __slots__ = ()


@dataclass(slots=True)
class Const(Value):
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


@dataclass(slots=True)
class Thing(Value):
    """An object with an identity; two things are the same if and only if their `uid` is.

    `kind` names what it is ("GradScaler", "Optimizer", "Module", ...), "" if nothing is known.
    `since` is the innermost loop pass that it depends on: what was made before the loop is the same
    in every pass.
    """

    uid: int
    kind: str = field(default="", compare=False)
    since: Iteration = field(default=NOWHERE, compare=False)
    text: str = field(default="", compare=False)

    def __eq__(self, other: object) -> bool:  # as would be generated, but without making tuples
        return isinstance(other, Thing) and other.uid == self.uid

    def __hash__(self) -> int:
        return self.uid


@dataclass(frozen=True, slots=True)
class External(Value):
    """Something a library defines, by its full dotted name."""

    name: str


@dataclass(frozen=True, slots=True)
class Function(Value):
    """A function or lambda of the project, with the scopes it closes over, innermost first."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    module: Module = field(compare=False, repr=False)
    scopes: tuple[int, ...]
    owner: Class | None = None
    decorators: tuple[Value, ...] = ()

    @property
    def name(self) -> str:
        """Its name as defined."""
        return "<lambda>" if isinstance(self.node, ast.Lambda) else self.node.name


@dataclass(frozen=True, slots=True)
class Class(Value):
    """A class of the project; its attributes are in the heap under `uid`."""

    node: ast.ClassDef
    module: Module = field(compare=False, repr=False)
    uid: int
    bases: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Bound(Value):
    """`receiver.name` before it is called: a method of the project (`function`) or of a library."""

    receiver: Value
    name: str
    function: Function | None = None


@dataclass(frozen=True, slots=True)
class Namespace(Value):
    """A module of the project that was imported; its globals are in the heap under `uid`."""

    module: Module = field(compare=False, repr=False)
    uid: int


@dataclass(frozen=True, slots=True)
class Partial(Value):
    """`functools.partial(function, *arguments, **keywords)`."""

    function: Value
    arguments: tuple[Value, ...]
    keywords: tuple[tuple[str, Value], ...]


@dataclass(slots=True)
class Choice(Value):
    """One of two values, depending on a condition that is not known yet."""

    condition: Thing
    yes: Value
    no: Value
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._hash = hash((self.condition, self.yes, self.no))

    def __eq__(self, other: object) -> bool:  # as would be generated; most that differ do so here
        return self is other or (
            isinstance(other, Choice)
            and self._hash == other._hash
            and self.condition == other.condition
            and self.yes == other.yes
            and self.no == other.no
        )

    def __hash__(self) -> int:
        return self._hash


@dataclass(slots=True)
class Pack(Value):
    """A tuple, or the known items of a list, in order."""

    items: tuple[Value, ...]
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._hash = hash(self.items)

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True)
class Imported(Value):
    """`from module import attribute` of a project module, looked up when it is first used.

    `attribute` is None for the module itself.
    """

    module: Module = field(repr=False)
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

"""One way through the program: what every name holds, what was assumed, where the protocols stand."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import TYPE_CHECKING

from msgspec import Struct, field

from mpaudit.source.engine.heap import Heap
from mpaudit.source.engine.standing import Standing
from mpaudit.source.engine.values import (
    NOWHERE,
    Choice,
    Class,
    Const,
    Function,
    Iteration,
    Thing,
    Value,
)

if TYPE_CHECKING:
    import ast

    from mpaudit.source.text.module import Module

UNSET = Const("<unset>")
"""What a place holds that was not set on one of the paths that were joined; there is but this one."""


SETTINGS: tuple[Hashable, ...] = ("settings",)
"""What owners up to zero stand for."""
MAX_FRESH = 20_000
"""Descriptions, of some 500 bytes each, between two sweeps."""
NUMBERLESS = frozenset(["module", "node"])
"""Attributes of values that hold no number."""


class Identities:
    """Gives equal descriptions the same small number, so that values are compared cheaply.

    While `lasts` is true, what is asked for is what all paths share: it outlives a `sweep`.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[Hashable, ...], int] = {}
        self._next = 1
        self._lasting: set[int] = set()
        self.lasts = False
        self.decisive: set[Thing] = set()
        """The conditions on which it depends what a name holds that a protocol watches."""
        self.within: dict[tuple[Thing, Thing], bool] = {}
        """Whether a value went into another one, as far as that was asked."""
        self.members: dict[int, list[int]] = {}
        """The attributes of things that were only ever read, by what they are attributes of."""
        self._descriptions: dict[int, tuple[Hashable, ...]] = {}
        self._swept = 0

    def number(self, *description: Hashable) -> int:
        """The number of this description."""
        known = self._numbers.get(description)
        if known is None:
            known = self._numbers[description] = self._next
            self._next += 1
            self._descriptions[known] = description
            if description[0] == "." and isinstance(description[1], Thing):
                self.members.setdefault(description[1].uid, []).append(known)
        if self.lasts:
            self._lasting.add(known)
        return known

    def description(self, number: int) -> tuple[Hashable, ...]:
        """What `number` stands for; owners up to zero are settings of the whole program."""
        return self._descriptions.get(number, SETTINGS)

    @property
    def overgrown(self) -> bool:
        """Whether so many descriptions have come since the last sweep that another is worth it."""
        return len(self._descriptions) - self._swept > MAX_FRESH

    def sweep(self, told: Iterable[Hashable]) -> None:
        """Forget what nobody can ask for again: descriptions of what was met on single paths.

        What lasts is kept, with what decides something and what is part of what was `told`, and all
        that these are made of. No path may be in progress.
        """
        kept = self._lasting | {each.uid for each in self.decisive}
        for each in told:
            kept.update(_numbers(each))
        waiting = list(kept)
        while waiting:
            news = set(_numbers(self._descriptions.get(waiting.pop(), SETTINGS))) - kept
            kept |= news
            waiting += news
        self._descriptions = {n: d for n, d in self._descriptions.items() if n in kept}
        self._numbers = {d: n for n, d in self._descriptions.items()}
        members = {n: [m for m in found if m in kept] for n, found in self.members.items()}
        self.members = {n: found for n, found in members.items() if n in kept and found}
        self.within.clear()
        self._swept = len(self._descriptions)


def _numbers(item: Hashable) -> Iterator[int]:
    """All that may be numbers of descriptions in a value, a description or a fact."""
    waiting: list[object] = [item]
    while waiting:
        each = waiting.pop()
        if type(each) is int:
            yield each
        elif isinstance(each, (tuple, frozenset)):
            waiting += each
        else:
            kind = type(each)
            if kind not in _numbered:
                names = (
                    kind.__struct_fields__ if issubclass(kind, Struct) and kind is not Const else ()
                )
                _numbered[kind] = [name for name in names if name not in NUMBERLESS]
            waiting += [getattr(each, name) for name in _numbered[kind]]


_numbered: dict[type, list[str]] = {}
"""The attributes that may hold a number, by kind of value or fact."""


class Fork(Exception):  # noqa: N818 - not an error: the statement goes on once for each answer
    """The evaluation depends on an unknown condition."""

    def __init__(self, condition: Thing) -> None:
        super().__init__(condition)
        self.condition = condition


class Frame(Struct):
    """One activation of a function, or a module body.

    `scopes` are the heap owners in which names are looked up, innermost first; `done` holds the
    results of the calls that the statement in progress has already made; `context` tells this
    activation from others of the same function.
    """

    module: Module
    scopes: tuple[int, ...]
    context: int
    function: Function | None = None
    iteration: Iteration = NOWHERE
    done: dict[ast.AST, Value] = field(default_factory=dict)
    global_names: frozenset[str] = frozenset()
    nonlocal_names: frozenset[str] = frozenset()
    occasional: bool = False
    in_class: bool = False

    def copy(self) -> Frame:
        """An activation that shares nothing mutable with this one."""
        return Frame(
            self.module,
            self.scopes,
            self.context,
            self.function,
            self.iteration,
            self.done.copy(),
            self.global_names,
            self.nonlocal_names,
            self.occasional,
            self.in_class,
        )


class Path(Struct):
    """A path in progress.

    `exit` says how control leaves the current block ("break", "continue", "return", "raise"), None if
    it goes on; `result` is what a return carries. `regions` are the contexts entered, outermost
    first.
    """

    standing: Standing
    heap: Heap
    facts: dict[Thing, bool] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)
    regions: tuple[Thing, ...] = ()
    exit: str | None = None
    result: Value | None = None

    @property
    def frame(self) -> Frame:
        """The activation in progress."""
        return self.frames[-1]

    def copy(self) -> Path:
        """A path that shares nothing mutable with this one."""
        return Path(
            self.standing,
            self.heap.copy(),
            self.facts.copy(),
            [frame.copy() for frame in self.frames],
            self.regions,
            self.exit,
            self.result,
        )

    def known(self, thing: Value, name: str) -> Value | None:
        """A hidden fact about a thing ("@scaled"), None if there is none."""
        if not isinstance(thing, Thing):
            return None
        fact = self.heap.look(thing.uid, name)
        if isinstance(fact, Choice):
            return self.settled(fact)
        return None if fact is UNSET else fact

    def settled(self, fact: Value) -> Value | None:
        """What a hidden fact is on this path."""
        while isinstance(fact, Choice):
            answer = self.facts.get(fact.condition)
            if answer is None:
                return fact
            fact = fact.yes if answer else fact.no
        return None if fact is UNSET else fact

    def learn(self, thing: Thing, **facts: Value | None) -> Thing:
        """Note hidden facts about a thing; None is no fact. Returns the thing."""
        for name, value in facts.items():
            if value is not None:
                self.heap[(thing.uid, "@" + name)] = value
        return thing


def of_making(fact: Value | None) -> Value | None:
    """What a fact is that an object has from its making: on paths without the fact there is no object."""
    while isinstance(fact, Choice) and UNSET in (fact.yes, fact.no):
        fact = fact.no if fact.yes == UNSET else fact.yes
    return fact


def unset(value: Value) -> bool:
    """Whether a place that holds this was not set on some of the paths that were joined."""
    return value == UNSET or (isinstance(value, Choice) and (unset(value.yes) or unset(value.no)))


def filled(value: Value, otherwise: Value) -> Value:
    """What a place holds if it holds something else where it was not set."""
    if isinstance(value, Choice):
        yes, no = filled(value.yes, otherwise), filled(value.no, otherwise)
        return yes if yes == no else Choice(value.condition, yes, no)
    return otherwise if value == UNSET else value


def lookup(path: Path, owner: Class, name: str, seen: frozenset[int] = frozenset()) -> Value | None:
    """A class attribute, through the bases that are in the project, in definition order."""
    found = path.heap.get((owner.uid, name))
    if found is not None:
        return found
    for base in owner.bases:
        if isinstance(base, Class) and base.uid not in seen:
            found = lookup(path, base, name, seen | {owner.uid})
            if found is not None:
                return found
    return None

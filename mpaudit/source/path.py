"""One way through the program: what every name holds, what was assumed, where the protocols stand."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpaudit.protocols.protocol import Protocol
from mpaudit.source.heap import Heap, Place
from mpaudit.source.values import (
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

    from mpaudit.source.module import Module

MAX_CHOICE_DEPTH = 4


class Identities:
    """Gives equal descriptions the same small number, so that values are compared cheaply."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._descriptions: list[tuple[Hashable, ...]] = [()]

    def number(self, *description: Hashable) -> int:
        """The number of this description."""
        known = self._numbers.get(description)
        if known is None:
            known = self._numbers[description] = len(self._descriptions)
            self._descriptions.append(description)
        return known

    def description(self, number: int) -> tuple[Hashable, ...]:
        """What `number` stands for."""
        return self._descriptions[number]


class Fork(Exception):  # noqa: N818 - not an error: the statement goes on once for each answer
    """The evaluation depends on an unknown condition."""

    def __init__(self, condition: Thing) -> None:
        super().__init__(condition)
        self.condition = condition


@dataclass(slots=True)
class Frame:
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


@dataclass(slots=True)
class Path:
    """A path in progress.

    `exit` says how control leaves the current block ("break", "continue", "return", "raise"), None if
    it goes on; `result` is what a return carries. `regions` are the contexts entered, outermost
    first.
    """

    machines: list[Protocol]
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
            [machine.copy() for machine in self.machines],
            self.heap.copy(),
            self.facts.copy(),
            [frame.copy() for frame in self.frames],
            self.regions,
            self.exit,
            self.result,
        )

    def known(self, thing: Value, name: str) -> Value | None:
        """A hidden fact about a thing ("@scaled"), None if there is none."""
        return self.heap.get((thing.uid, name)) if isinstance(thing, Thing) else None

    def learn(self, thing: Thing, **facts: Value | None) -> Thing:
        """Note hidden facts about a thing; None is no fact. Returns the thing."""
        for name, value in facts.items():
            if value is not None:
                self.heap[(thing.uid, "@" + name)] = value
        return thing

    def protocol_state(self) -> tuple[Hashable, ...]:
        """Where the protocols stand: paths that agree here may be merged."""
        return tuple(frozenset(machine.state.items()) for machine in self.machines)


def merge(paths: list[Path], limit: int) -> list[Path]:
    """Join paths that no protocol can tell apart; what differs becomes a `Choice`.

    Two paths are joined if they leave the same way, in the same regions and protocol states, and either
    hold the same everywhere or differ in the answer to one condition. At most `limit` paths are
    kept: beyond it, paths are dropped rather than guessed at.
    """
    groups: dict[Hashable, list[Path]] = {}
    for path in paths:
        key = (path.exit, path.regions, path.protocol_state(), len(path.frames))
        group = groups.setdefault(key, [])
        for other in group:
            if _join(other, path):
                for machine, twin in zip(other.machines, path.machines, strict=True):
                    machine.facts = {**twin.facts, **machine.facts}
                break
        else:
            group.append(path)
    return [path for group in groups.values() for path in group][:limit]


def _join(kept: Path, other: Path) -> bool:
    """Fold `other` into `kept`; False if that would mix up what belongs together."""
    conditions = [
        asked
        for asked, answer in kept.facts.items()
        if other.facts.get(asked, answer) is not answer
    ]
    if len(conditions) > 1:
        return False
    mine, theirs = kept.heap.own, other.heap.own
    differing = [place for place in mine if mine[place] != other.heap.get(place)]
    differing += [
        place for place in theirs if place not in mine and theirs[place] != kept.heap.get(place)
    ]
    same_result = kept.result == other.result
    if not conditions:
        if differing or not same_result:
            return False
        kept.facts = _common(kept, other)
        return True
    condition = conditions[0]
    positive = kept.facts[condition]
    merged: dict[Place, Value] = {}
    pairs: Iterable[tuple[Place | None, Value | None, Value | None]] = [
        (key, kept.heap.get(key), other.heap.get(key)) for key in differing
    ]
    for key, one, two in [*pairs, (None, kept.result, other.result)]:
        if one == two:
            continue
        choice = _choose(condition, one, two, positive)
        if choice is None:
            return False
        if key is not None:
            merged[key] = choice
        else:
            kept.result = choice
    kept.heap.own.update(merged)
    kept.facts = _common(kept, other)
    return True


def _common(one: Path, other: Path) -> dict[Thing, bool]:
    return {asked: a for asked, a in one.facts.items() if other.facts.get(asked) is a}


def _choose(condition: Thing, one: Value | None, two: Value | None, positive: bool) -> Value | None:
    unset = Const("<unset>")
    one, two = one or unset, two or unset
    if _depth(one) + _depth(two) >= MAX_CHOICE_DEPTH:
        return None
    return Choice(condition, one, two) if positive else Choice(condition, two, one)


def _depth(value: Value) -> int:
    return 1 + max(_depth(value.yes), _depth(value.no)) if isinstance(value, Choice) else 0


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

"""What every protocol is: a machine that is fed events and answers with verdicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from typing import ClassVar

from msgspec import Struct

from mpaudit.event import Event
from mpaudit.finding import Problem, Span


class Broken(Struct, frozen=True):
    """The protocol was broken on this path.

    `grounded` says that the breach does not rest on a guess about conditions: an operation came twice
    because another one, under a changing condition, did not come between. A breach that is not
    grounded is dropped where any other path through the same place keeps the protocol, or keeps it
    at `judged`, where the operation stands if the problem is shown elsewhere.
    """

    problem: Problem
    grounded: bool = False
    judged: Span | None = None

    @property
    def places(self) -> set[tuple[str, Span]]:
        """The rule, and the places where a path that keeps it speaks against this."""
        rule, span = self.problem.rule, self.problem.span
        return {(rule, span), (rule, self.judged or span)}

    @property
    def rule(self) -> str:
        """The rule that is broken."""
        return self.problem.rule


class Kept(Struct, frozen=True):
    """The same place on this path keeps the rule; `occasional` if only under a changing condition.

    `unseen` says that this rests on what a caller would hand over whom nobody has seen: it counts
    against the paths of the same entry point only.
    """

    rule: str
    span: Span
    occasional: bool = False
    unseen: bool = False


class Noted(Struct, frozen=True):
    """Something that the whole program is judged by at the end, in `by.conclude`."""

    by: type[Protocol]
    fact: Hashable
    rule: str = ""


Verdict = Broken | Kept | Noted


def places(verdict: Verdict) -> Iterator[Span]:
    """All places that a verdict speaks of."""
    waiting: list[object] = [verdict.span if isinstance(verdict, Kept) else verdict]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Span):
            yield each
        elif isinstance(each, (tuple, frozenset)):
            waiting += each
        elif isinstance(each, Struct):
            waiting += (getattr(each, name) for name in each.__struct_fields__)


class Protocol(ABC):
    """A state machine over events.

    All state lives in `state`, a flat mapping of hashable keys to immutable values: so a path of the
    abstract execution copies a machine by copying a dict, and paths in the same state are merged.
    `facts`, a mapping of the same form, holds what is said once of an object and stays true of it
    (a layer was built under this policy): it does not keep paths apart, they pool it.
    `takes` are the events that it acts on: others are not fed to it on the static side, where every
    event costs each path a copy of the machines that take it.
    """

    __slots__ = ("facts", "state")

    takes: ClassVar[tuple[type[Event], ...]]

    def __init__(
        self,
        state: dict[Hashable, Hashable] | None = None,
        facts: dict[Hashable, Hashable] | None = None,
    ) -> None:
        self.state: dict[Hashable, Hashable] = {} if state is None else state
        self.facts: dict[Hashable, Hashable] = {} if facts is None else facts

    @abstractmethod
    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event and yield what it broke or kept."""

    def copy(self) -> Protocol:
        """A machine that starts from here and goes its own way."""
        return type(self)(self.state.copy(), self.facts.copy())

    def imported(self, other: Protocol) -> None:  # noqa: B027 - most have nothing to take over
        """Take over what `other` has seen while an imported module was executed."""

    @classmethod
    def conclude(cls, facts: Sequence[Hashable]) -> Iterator[Problem]:  # noqa: ARG003
        """The problems that follow from what was noted in the whole program, each fact once."""
        return iter(())

    def later(self) -> Protocol:
        """The machine that a function starts with which is called some time after all this."""
        return type(self)()


def within(verdicts: list[Verdict]) -> list[Verdict]:
    """What the verdicts of one entry point say to the whole program."""
    unseen = {(v.rule, v.span) for v in verdicts if isinstance(v, Kept) and v.unseen}
    if not unseen:
        return verdicts
    return [
        v
        for v in verdicts
        if not (isinstance(v, Kept) and v.unseen)
        and not (isinstance(v, Broken) and v.places & unseen)
    ]


def settle(verdicts: list[Verdict]) -> list[Problem]:
    """The problems that stand once the verdicts of all paths (or of the one real run) are in.

    One problem per rule and place: the first. A breach gives way to a path that keeps the rule at the
    same place, unless it is grounded and was kept only under a changing condition.
    """
    firmly = {(v.rule, v.span) for v in verdicts if isinstance(v, Kept) and not v.occasional}
    kept = {(v.rule, v.span) for v in verdicts if isinstance(v, Kept)}
    standing: dict[tuple[str, Span], Problem] = {}
    for verdict in verdicts:
        if isinstance(verdict, Broken):
            if verdict.places.isdisjoint(firmly if verdict.grounded else kept):
                key = (verdict.problem.rule, verdict.problem.span)
                standing.setdefault(key, verdict.problem)
    notes: dict[type[Protocol], dict[Hashable, None]] = {}
    for verdict in verdicts:
        if isinstance(verdict, Noted):
            notes.setdefault(verdict.by, {})[verdict.fact] = None
    for protocol, facts in notes.items():
        for problem in protocol.conclude(tuple(facts)):
            standing.setdefault((problem.rule, problem.span), problem)
    return list(standing.values())

"""Where the protocols stand on a path, and which standings are alike."""

from __future__ import annotations

from collections.abc import Hashable

from msgspec import Struct

from mpaudit.event import Event, LostSight, Ref
from mpaudit.finding import Span
from mpaudit.protocols.protocol import Protocol, Verdict

MOST = 8
"""So many standings one path may have."""
Shape = tuple[Hashable, ...]
"""The states of all machines, without the places in them."""


class _Machines:
    """A machine of each protocol; shared by all paths that have seen the same events."""

    __slots__ = ("_busy", "_frozen", "_shapes", "_takers", "machines")

    def __init__(
        self,
        machines: list[Protocol],
        frozen: list[Hashable | None] | None = None,
        shapes: list[Hashable | None] | None = None,
        takers: dict[type[Event], list[int]] | None = None,
    ) -> None:
        self.machines = machines
        self._frozen = frozen or [None] * len(machines)  # each machine's state, once it was asked
        self._shapes = shapes or [None] * len(machines)
        self._takers = {} if takers is None else takers  # the machines that take a kind of event
        self._busy: bool | None = None

    @property
    def state(self) -> tuple[Hashable, ...]:
        """All machines' states."""
        for index, machine in enumerate(self.machines):
            if self._frozen[index] is None:
                self._frozen[index] = frozenset(machine.state.items())
        return tuple(self._frozen)

    @property
    def shape(self) -> Shape:
        """The same without the places."""
        for index, machine in enumerate(self.machines):
            if self._shapes[index] is None:
                items = [(key, placeless(value)) for key, value in machine.state.items()]
                self._shapes[index] = frozenset(items)
        return tuple(self._shapes)

    @property
    def busy(self) -> bool:
        """Whether any protocol is under way."""
        if self._busy is None:
            self._busy = any(machine.state for machine in self.machines)
        return self._busy

    def after(self, event: Event) -> tuple[_Machines, list[Verdict]]:
        """The machines once they have seen `event`, and what they say to it."""
        taking = self._takers.get(type(event))
        if taking is None:
            taking = [i for i, each in enumerate(self.machines) if isinstance(event, each.takes)]
            self._takers[type(event)] = taking
        if isinstance(event, LostSight):  # a machine that knows nothing can lose nothing
            taking = [i for i in taking if self.machines[i].state or self.machines[i].facts]
            if not taking:
                return self, []
        machines, frozen, shapes = self.machines.copy(), self._frozen.copy(), self._shapes.copy()
        verdicts: list[Verdict] = []
        for index in taking:
            machines[index] = moved = machines[index].copy()
            frozen[index] = shapes[index] = None
            verdicts.extend(moved.feed(event))
        return _Machines(machines, frozen, shapes, self._takers), verdicts

    def joined(self, other: _Machines) -> _Machines:
        """These, with the facts that the machines of both have gathered."""
        for machine, twin in zip(self.machines, other.machines, strict=True):
            if machine is not twin and machine.facts != twin.facts:
                break
        else:
            return self
        machines = [machine.copy() for machine in self.machines]
        for machine, twin in zip(machines, other.machines, strict=True):
            machine.facts = {**twin.facts, **machine.facts}
        return _Machines(machines)

    def importing(self, machines: list[Protocol]) -> _Machines:
        """These, with what the protocols have seen in an imported module."""
        copies = [machine.copy() for machine in self.machines]
        for machine, other in zip(copies, machines, strict=True):
            machine.imported(other)
        same = all(
            m.state == o.state and m.facts == o.facts
            for m, o in zip(self.machines, copies, strict=True)
        )
        return self if same else _Machines(copies)


class Standing:
    """Where the protocols stand on a path.

    They may stand in several ways that differ in places only, as behind two branches that step the same
    optimizer: nothing that follows treats these differently, so that one path is enough for them. Each
    sees what happens, for verdicts speak of places.
    """

    __slots__ = ("_ways",)

    def __init__(self, *ways: _Machines) -> None:
        self._ways = ways

    @classmethod
    def of(cls, machines: list[Protocol]) -> Standing:
        """Where these machines stand."""
        return cls(_Machines(machines))

    @property
    def machines(self) -> list[Protocol]:
        """The machines that stand in the first way."""
        return self._ways[0].machines

    @property
    def shape(self) -> Shape:
        """All machines' states without places: paths that agree here may be merged."""
        return self._ways[0].shape

    @property
    def busy(self) -> bool:
        """Whether any protocol is under way."""
        return self._ways[0].busy

    def __len__(self) -> int:
        """The number of ways."""
        return len(self._ways)

    def after(self, event: Event) -> tuple[Standing, list[Verdict]]:
        """Where the protocols stand once they have seen `event`, and what they say to it."""
        first, verdicts = self._ways[0].after(event)
        if len(self._ways) == 1:
            return (self if first is self._ways[0] else Standing(first)), verdicts
        ways = [first]
        for each in self._ways[1:]:
            moved, said = each.after(event)
            ways.append(moved)
            verdicts += [verdict for verdict in said if verdict not in verdicts]
        return Standing(*_distinct(ways)), verdicts

    def joined(self, other: Standing) -> Standing | None:
        """Where the protocols stand on either of two paths of the same shape; None: in too many ways."""
        if other is self or (len(self._ways) == 1 and self._ways == other._ways):
            return self
        ways = _distinct([*self._ways, *other._ways])
        return Standing(*ways) if len(ways) <= MOST else None

    def importing(self, machines: list[Protocol]) -> Standing:
        """This, with what the protocols have seen in an imported module."""
        return Standing(*(each.importing(machines) for each in self._ways))


def _distinct(ways: list[_Machines]) -> list[_Machines]:
    """The ways of different states; what was gathered on others of the same state joins it."""
    found: dict[Hashable, _Machines] = {}
    for each in ways:
        alike = found.get(each.state)
        found[each.state] = each if alike is None else alike.joined(each)
    return list(found.values())


def placeless(value: Hashable) -> Hashable:
    """A value of a state without the places in it; an object stays what it is."""
    if isinstance(value, Span):
        return None
    if isinstance(value, tuple):
        return tuple(placeless(each) for each in value)
    if isinstance(value, frozenset):
        return frozenset(placeless(each) for each in value)
    if isinstance(value, Struct) and not isinstance(value, Ref):
        fields = (placeless(getattr(value, name)) for name in value.__struct_fields__)
        return (type(value), *fields)
    return value

"""What every name, attribute and item holds on one path, over what all paths share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mpaudit.source.engine.values import Value

Place = tuple[int, str]
"""The identity of an owner (a scope, an object, a class) and a name in it."""
NOTHING: Mapping[str, Value] = {}


class Layer:
    """Places that many paths share and none of them writes to."""

    __slots__ = ("owners",)

    def __init__(self) -> None:
        self.owners: dict[int, dict[str, Value]] = {}

    def add(self, place: Place, value: Value) -> None:
        """Fill a place that is still empty."""
        self.owners.setdefault(place[0], {}).setdefault(place[1], value)


class _Trail:
    """The owners written to since the last fork, after those of the forks before it."""

    __slots__ = ("before", "depth", "written")

    def __init__(self, before: _Trail | None = None) -> None:
        self.before = before
        self.depth: int = 0 if before is None else before.depth + 1
        self.written: set[int] = set()


class Heap:
    """One path's places: its own writes over shared layers.

    A fork copies one dict of owners; the places of an owner are copied when one side writes to them.
    Two heaps with a common past know which owners have been written to since, so that comparing them
    costs what they did, not what they hold.
    """

    __slots__ = ("_trail", "layers", "owners")

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self.layers = layers
        self.owners: dict[int, dict[str, Value]] = {}
        self._trail = _Trail()

    def get(self, place: Place, default: Value | None = None) -> Value | None:
        """What a place holds, `default` if nothing."""
        owner, name = place
        value = self.look(owner, name)
        return default if value is None else value

    def look(self, owner: int, name: str) -> Value | None:
        """What the place (owner, name) holds, None if nothing."""
        names = self.owners.get(owner)
        if names is not None:
            value = names.get(name)
            if value is not None:
                return value
        for layer in self.layers:
            names = layer.owners.get(owner)
            if names is not None:
                value = names.get(name)
                if value is not None:
                    return value
        return None

    def names(self, owner: int) -> Mapping[str, Value]:
        """What the places of an owner hold, by name; not to be written to."""
        own = self.owners.get(owner)
        below = [names for layer in self.layers if (names := layer.owners.get(owner))]
        if not below:
            return own or NOTHING
        if own is None and len(below) == 1:
            return below[0]
        merged: dict[str, Value] = {}
        for names in reversed(below):
            merged.update(names)
        merged.update(own or NOTHING)
        return merged

    def holds(self, owner: int) -> bool:
        """Whether anything is known of an owner."""
        if owner in self.owners:
            return True
        for layer in self.layers:  # noqa: SIM110 - it is asked for every operand
            if owner in layer.owners:
                return True
        return False

    def __getitem__(self, place: Place) -> Value:
        value = self.get(place)
        if value is None:
            raise KeyError(place)
        return value

    def __setitem__(self, place: Place, value: Value) -> None:
        self._writable(place[0])[place[1]] = value

    def __contains__(self, place: Place) -> bool:
        owner, name = place
        return self.look(owner, name) is not None

    def __len__(self) -> int:
        """How many owners this path has written to."""
        return len(self.owners)

    def __iter__(self) -> Iterator[tuple[Place, Value]]:
        """The places that this path has written to, and what they hold."""
        for owner, names in self.owners.items():
            for name, value in names.items():
                yield (owner, name), value

    def _writable(self, owner: int) -> dict[str, Value]:
        names = self.owners.get(owner)
        if owner not in self._trail.written:
            self._trail.written.add(owner)
            names = self.owners[owner] = {} if names is None else names.copy()
        elif names is None:
            names = self.owners[owner] = {}
        return names

    def forget(self, place: Place) -> None:
        """Drop what this path wrote to a place."""
        if place[1] in self.owners.get(place[0], ()):
            del self._writable(place[0])[place[1]]

    def forget_owner(self, owner: int) -> None:
        """Drop all that this path wrote to the places of an owner."""
        if self.owners.pop(owner, None) is not None:
            self._trail.written.add(owner)

    def of(self, owner: int) -> Iterator[tuple[str, Value]]:
        """The names of an owner and what they hold."""
        return iter(list(self.names(owner).items()))

    def copy(self) -> Heap:
        """A heap that starts from here and goes its own way."""
        other = Heap(self.layers)
        other.owners = self.owners.copy()
        other._trail, self._trail = _Trail(self._trail), _Trail(self._trail)
        return other

    def differences(self, other: Heap) -> Iterator[tuple[Place, Value | None, Value | None]]:
        """The places that two heaps of the same layers differ in, and what they hold there."""
        for owner in self._written_since_fork(other):
            mine, theirs = self.owners.get(owner, {}), other.owners.get(owner, {})
            if mine is theirs:
                continue
            for name, value in mine.items():
                found = theirs.get(name)
                if found is not value:
                    found = found or other.look(owner, name)
                    if found is not value and found != value:
                        yield (owner, name), value, found
            for name, value in theirs.items():
                if name not in mine:
                    held = self.look(owner, name)
                    if held != value:
                        yield (owner, name), held, value

    def changed(self, before: Heap) -> bool:
        """Whether what `before`, an earlier copy, holds in view was written to."""
        return any(
            not place[1].startswith("@") and one is not None and two is not None
            for place, one, two in self.differences(before)
        )

    def _written_since_fork(self, other: Heap) -> set[int]:
        written: set[int] = set()
        one: _Trail | None = self._trail
        two: _Trail | None = other._trail
        while one is not two:
            if one is None or two is None:  # no common past
                return self.owners.keys() | other.owners.keys()
            if one.depth >= two.depth:
                written |= one.written
                one = one.before
            else:
                written |= two.written
                two = two.before
        return written

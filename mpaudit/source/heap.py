"""What every name, attribute and item holds on one path, over what all paths share."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.source.values import Value

Place = tuple[int, str]
"""The identity of an owner (a scope, an object, a class) and a name in it."""


class Layer:
    """Places that many paths share and none of them writes to."""

    __slots__ = ("owners",)

    def __init__(self) -> None:
        self.owners: dict[int, dict[str, Value]] = {}

    def add(self, place: Place, value: Value) -> None:
        """Fill a place that is still empty."""
        self.owners.setdefault(place[0], {}).setdefault(place[1], value)

    def get(self, place: Place) -> Value | None:
        """What a place holds."""
        names = self.owners.get(place[0])
        return None if names is None else names.get(place[1])


class Heap:
    """One path's places: its own writes over shared layers, so that a copy costs only the writes."""

    __slots__ = ("layers", "own")

    def __init__(self, layers: tuple[Layer, ...], own: dict[Place, Value] | None = None) -> None:
        self.layers = layers
        self.own: dict[Place, Value] = {} if own is None else own

    def get(self, place: Place, default: Value | None = None) -> Value | None:
        """What a place holds, `default` if nothing."""
        value = self.own.get(place)
        if value is not None:
            return value
        for layer in self.layers:
            value = layer.get(place)
            if value is not None:
                return value
        return default

    def __getitem__(self, place: Place) -> Value:
        value = self.get(place)
        if value is None:
            raise KeyError(place)
        return value

    def __setitem__(self, place: Place, value: Value) -> None:
        self.own[place] = value

    def __contains__(self, place: Place) -> bool:
        return self.get(place) is not None

    def forget(self, place: Place) -> None:
        """Drop what this path wrote to a place."""
        self.own.pop(place, None)

    def forget_owner(self, owner: int) -> None:
        """Drop all that this path wrote to the places of an owner."""
        for place in [place for place in self.own if place[0] == owner]:
            del self.own[place]

    def of(self, owner: int) -> Iterator[tuple[str, Value]]:
        """The names of an owner and what they hold."""
        names: dict[str, Value] = {}
        for layer in reversed(self.layers):
            names.update(layer.owners.get(owner, {}))
        names.update((name, value) for (uid, name), value in self.own.items() if uid == owner)
        return iter(names.items())

    def copy(self) -> Heap:
        """A heap that starts from here and goes its own way."""
        return Heap(self.layers, self.own.copy())

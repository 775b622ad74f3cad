"""Resources that many places share: a graph takes microseconds for each resource that it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy
import tensorflow as tf

from mpaudit.runtime.keras.store import Store
from mpaudit.runtime.keras.sweep import swept

_MOST, _BYTES = 64, 1 << 18  # places of one resource, and bytes


class Held(NamedTuple):
    """A resource that a graph is given, and which of its rows is the first of a place: in the function
    that uses it, as a tensor that is there once."""

    resource: Any
    first: Any

    def captured(self) -> Held:
        """The same for the graph that is being traced, whose loops may only use what it has captured."""
        graph = tf.compat.v1.get_default_graph()
        return Held(graph.capture(self.resource), self.first)


def turns(places: Sequence[Held]) -> Iterator[tuple[Any, list[int]]]:
    """Resources, and the numbers of places on each that are changed together: a place that comes more than
    once takes turns with itself."""
    waiting = list(range(len(places)))
    while waiting:
        turn: dict[tuple[int, int], int] = {}
        for number in waiting:
            place = places[number]
            turn.setdefault((id(place.resource), id(place.first)), number)
        waiting = [number for number in waiting if number not in turn.values()]
        for resource in {
            id(places[n].resource): places[n].resource for n in turn.values()
        }.values():
            yield resource, [n for n in turn.values() if places[n].resource is resource]


class Place:
    """Some rows of a resource, of each replica, that begin as `start`, an array, says."""

    __slots__ = ("_first", "_start", "_store")

    def __init__(self, store: Store, first: int, start: Any) -> None:
        self._store = store
        self._first = first
        self._start = start

    @property
    def here(self) -> Held:
        """Those of the replica which is computed now."""
        return Held(self._store.here, self._first)

    @property
    def replicas(self) -> list[int]:
        """Of which replicas there are some."""
        return self._store.replicas

    def swept(self, change: Callable[[Any], Any]) -> list[Any]:
        """What they hold of each replica, as NumPy has it, and of the places beside it; `change` says of
        those of all, one behind the other, what they hold from now on, and is to be the same for each.

        Waits for the device.
        """
        size = len(self._start)

        def of_all(held: Any) -> Any:
            return change(held.reshape(-1, *self._start.shape)).reshape(held.shape)

        return [held[self._first :][:size] for held in swept(self._store, of_all)]


class Shelf:
    """Gives out places that all begin as `start` says; a resource lives as long as one of its places."""

    def __init__(self, start: Any) -> None:
        self._start = start
        self._room = max(1, min(_MOST, _BYTES // start.nbytes))
        self._store: Store | None = None
        self._taken = 0

    def place(self) -> Place:
        """Another one."""
        if self._store is None or self._taken == self._room:
            dtype = tf.as_dtype(self._start.dtype)
            self._store = Store(dtype, lambda: numpy.concatenate([self._start] * self._room))
            self._taken = 0
        self._taken += 1
        return Place(self._store, (self._taken - 1) * len(self._start), self._start)

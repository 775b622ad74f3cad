"""What is kept for objects of the script, by identity."""

from __future__ import annotations

import weakref
from typing import Any


class _Held(weakref.ref[Any]):
    """A reference to an object, with what is kept for it."""

    __slots__ = ("key", "value")

    key: int
    value: Any


class Known:
    """Values kept for objects by identity, without keeping the objects or marking them."""

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}
        self._forget = self._forgotten  # one for all: there is a reference for every tensor

    def get(self, thing: object) -> Any:
        """What is kept for `thing`, None if nothing is."""
        held = self._held.get(id(thing))
        return held.value if held is not None and held() is thing else None

    def set(self, thing: object, value: Any) -> None:
        """Keep `value` for as long as `thing` lives."""
        held = _Held(thing, self._forget)
        held.key, held.value = id(thing), value
        self._held[held.key] = held

    def _forgotten(self, held: Any) -> None:
        # It names no global: at the interpreter's end they are None.
        key: int = held.key
        if self._held.get(key) is held:
            del self._held[key]

    def setdefault(self, thing: object, value: Any) -> Any:
        """What is kept for `thing`; `value` from now on, if nothing is."""
        held = self.get(thing)
        if held is None:
            self.set(thing, value)
        return value if held is None else held

    def drop(self, thing: object) -> Any:
        """Keep nothing for `thing` any more; returns what was kept."""
        found = self.get(thing)
        self._held.pop(id(thing), None)
        return found

    def items(self) -> list[tuple[Any, Any]]:
        """The objects that something is kept for and that live, each with that."""
        found = [(held(), held.value) for held in list(self._held.values())]
        return [each for each in found if each[0] is not None]

    def things(self) -> list[Any]:
        """The objects that something is kept for and that live."""
        found = [held() for held in list(self._held.values())]
        return [thing for thing in found if thing is not None]

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
        self.held: dict[int, _Held] = {}
        """By identity: for who asks so often in a step that a call of `get` counts."""
        self._forget = self._forgotten  # one for all: there is a reference for every tensor

    def get(self, thing: object) -> Any:
        """What is kept for `thing`, None if nothing is."""
        held = self.held.get(id(thing))
        return held.value if held is not None and held() is thing else None

    def set(self, thing: object, value: Any) -> None:
        """Keep `value` for as long as `thing` lives."""
        held = _Held(thing, self._forget)
        held.key, held.value = id(thing), value
        self.held[held.key] = held

    def _forgotten(self, held: Any) -> None:
        # It names no global: at the interpreter's end they are None.
        key: int = held.key
        if self.held.get(key) is held:
            del self.held[key]

    def setdefault(self, thing: object, value: Any) -> Any:
        """What is kept for `thing`; `value` from now on, if nothing is."""
        held = self.get(thing)
        if held is None:
            self.set(thing, value)
        return value if held is None else held

    def drop(self, thing: object) -> Any:
        """Keep nothing for `thing` any more; returns what was kept."""
        found = self.get(thing)
        self.held.pop(id(thing), None)
        return found

    def items(self) -> list[tuple[Any, Any]]:
        """The objects that something is kept for and that live, each with that."""
        held = list(self.held.values())
        return [(thing, each.value) for each in held if (thing := each()) is not None]

    def things(self) -> list[Any]:
        """The objects that something is kept for and that live."""
        found = [held() for held in list(self.held.values())]
        return [thing for thing in found if thing is not None]

"""Telling objects of the run apart for as long as they live, without keeping them alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ByObject(Generic[Value]):
    """A mapping by identity: also of objects that cannot be hashed, or that compare by value.

    `gone` is told of the value of an object that is no more.
    """

    def __init__(self, gone: Callable[[Value], None] | None = None) -> None:
        self._gone = gone
        self._held: dict[int, tuple[weakref.ref[object], Value]] = {}

    def get(self, owner: object) -> Value | None:
        """The value of `owner`, None if it has none."""
        found = self._held.get(id(owner))
        return None if found is None else found[1]

    def put(self, owner: object, value: Value) -> Value:
        """Give `owner` a value, and return it."""
        key = id(owner)
        self._held[key] = (weakref.ref(owner, lambda _: self._drop(key)), value)
        return value

    def values(self) -> list[Value]:
        """All values of objects that are alive."""
        return [value for _, value in list(self._held.values())]

    def _drop(self, key: int) -> None:
        found = self._held.pop(key, None)
        if found is not None and self._gone is not None:
            self._gone(found[1])

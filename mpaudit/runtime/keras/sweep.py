"""Reading what many places hold: within `at_once` each resource is read once, not once for each place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mpaudit.runtime.keras.store import Store


class _Swept(threading.local):
    held: dict[Store, list[Any]] | None = None


_SWEPT = _Swept()


@contextmanager
def at_once() -> Iterator[None]:
    """Within this, what `swept` has found in a resource is given again, and the resource left alone."""
    _SWEPT.held = {}
    try:
        yield
    finally:
        _SWEPT.held = None


def swept(store: Store, change: Callable[[Any], Any] | None = None) -> list[Any]:
    """What the resource of each replica holds, as NumPy has it, and `change` says what it holds from now
    on, if that is given; it is to be the same for all places of the resource. Waits for the device."""
    if _SWEPT.held is None:
        return _found(store, change)
    if store not in _SWEPT.held:
        _SWEPT.held[store] = _found(store, change)
    return _SWEPT.held[store]


def _found(store: Store, change: Callable[[Any], Any] | None) -> list[Any]:
    if change is not None:
        return store.swap(change)
    return [held for _, held in sorted(store.held().items())]

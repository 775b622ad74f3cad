"""Replacing functions of torch while a run is watched, and putting every one back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_ABSENT = object()


class Patches:
    """Attributes that were replaced; `undo` restores them in reverse order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace `owner.name`, whether or not the owner itself defines it."""
        before = vars(owner).get(name, _ABSENT)
        setattr(owner, name, value)

        def undo() -> None:
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        self._undo.append(undo)

    def wrap(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        """Replace the function `owner.name` by one that calls `around(original, *args, **kwargs)`.

        The replacement keeps name, docstring and signature. Names that `owner` lacks are passed over.
        """
        original = getattr(owner, name, None)
        if original is None:
            return

        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs)

        self.set(owner, name, replacement)

    def also(self, undo: Callable[[], None]) -> None:
        """Call `undo` too when everything is put back (to remove a hook)."""
        self._undo.append(undo)

    def undo(self) -> None:
        """Put everything back."""
        while self._undo:
            self._undo.pop()()

"""Replacing functions of torch while a run is watched, and putting every one back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.jit import _builtins

_ABSENT = object()


class Patches:
    """Attributes that were replaced; `undo` restores them in reverse order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self._functions: list[tuple[Any, str, Any, bool]] = []

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

        The replacement keeps name, docstring and signature. Names that `owner` lacks are passed
        over.
        """
        original = getattr(owner, name, None)
        if original is None:
            return

        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs)

        self.set(owner, name, replacement)
        operation = self.known_to_torchscript(original, replacement)
        self._functions.append((owner, name, replacement, operation))

    def known_to_torchscript(self, original: Any, replacement: Any) -> bool:
        """Have TorchScript take a replacement for what it replaces, if that is one of its operations.

        It knows those by the object.
        """
        operation = _builtins._find_builtin(original)
        if operation is not None:
            table = _builtins._get_builtin_table()
            table[id(replacement)] = operation
            self._undo.append(lambda: table.pop(id(replacement)))
        return operation is not None

    def replace(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        """Replace the function `owner.name`; a name that `owner` lacks is passed over."""
        self.wrap(owner, name, lambda _, *args, **kwargs: function(*args, **kwargs))

    def hide_from_compiler(self) -> None:
        """Have torch.compile take replaced operations as they are, and skip other functions."""
        from torch import _dynamo

        for owner, name, replacement, operation in self._functions:
            if operation:
                _dynamo.allow_in_graph(replacement)
            elif vars(owner).get(name) is replacement and owner is not torch.cuda:
                setattr(owner, name, _dynamo.disable(replacement))

    def also(self, undo: Callable[[], object]) -> None:
        """Call `undo` too when everything is put back (to remove a hook)."""
        self._undo.append(undo)

    def undo(self) -> None:
        """Put everything back."""
        while self._undo:
            self._undo.pop()()

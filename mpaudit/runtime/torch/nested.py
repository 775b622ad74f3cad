"""The tensors in what a layer is called with and in what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from mpaudit.runtime.torch.guard import unseen_by

_MANY = 64  # parts of one value that are looked at
_DEEP = 4  # values within values


_PLAIN = (str, int, float, bool, type(None))


def floats(value: Any) -> list[torch.Tensor]:
    """The floating tensors in a nested value of tuples, lists, mappings and dataclasses."""
    if type(value) is torch.Tensor:  # as most are
        return [value] if value.is_floating_point() else []
    found: list[torch.Tensor] = []
    _collect(value, found, 0)
    return found


def given(args: tuple[Any, ...], kwargs: Any) -> list[torch.Tensor]:
    """Those that a function is called with."""
    alone = len(args) == 1 and not kwargs and type(args[0]) is torch.Tensor
    return floats(args[0] if alone else (args, kwargs))


def _collect(value: Any, found: list[torch.Tensor], depth: int) -> None:
    if isinstance(value, torch.Tensor):
        if type(value) is not torch.Tensor:
            unseen_by(type(value))
        if value.is_floating_point():
            found.append(value)
    elif depth < _DEEP and type(value) not in _PLAIN:
        parts: Any = ()
        if isinstance(value, (list, tuple)):
            parts = value
        elif isinstance(value, (dict, Mapping)):  # asking for the second takes longer
            parts = list(value.values())
        elif is_dataclass(value) and not isinstance(value, type):
            parts = [getattr(value, field.name) for field in fields(value)]
        for part in parts[:_MANY]:
            _collect(part, found, depth + 1)

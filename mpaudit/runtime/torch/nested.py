"""The tensors in what a layer is called with and in what it returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch

_MANY = 64  # parts of one value that are looked at
_DEEP = 4  # values within values


def floats(value: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    """The floating tensors in a nested value of tuples, lists, mappings and dataclasses."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif depth < _DEEP:
        parts: Any = ()
        if isinstance(value, Mapping):
            parts = list(value.values())
        elif isinstance(value, (list, tuple)):
            parts = value
        elif is_dataclass(value) and not isinstance(value, type):
            parts = [getattr(value, field.name) for field in fields(value)]
        for part in parts[:_MANY]:
            yield from floats(part, depth + 1)

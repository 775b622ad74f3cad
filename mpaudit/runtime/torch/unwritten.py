"""Memory as it is found: what a tensor holds that nobody has written to yet."""

from __future__ import annotations

import ctypes

import torch

from mpaudit.runtime.torch.measure import STAND_INS

_PARTS, _LONG = 16, 16  # so many bytes at so many places are remembered
AsFound = tuple[bytes, ...]
"""What stands at some places of a tensor's memory."""


def as_found(tensor: torch.Tensor) -> AsFound | None:
    """What the memory of a tensor holds now; None of one that has none on the CPU."""
    dense = tensor.layout is torch.strided and tensor.is_cpu and not isinstance(tensor, STAND_INS)
    size = tensor.untyped_storage().nbytes() if dense else 0
    if not size:
        return None
    first = tensor.untyped_storage().data_ptr()
    starts = range(0, size, max(_LONG, size // _PARTS))
    return tuple(ctypes.string_at(first + at, min(_LONG, size - at)) for at in starts)


def unwritten(tensor: torch.Tensor, found: AsFound | None) -> bool:
    """Whether nobody has written to a tensor since that was `found`, as far as can be told.

    Tensors of the inference mode have no version: of those it is told from the memory itself.
    """
    if not tensor.is_inference():
        return bool(tensor._version == 0)
    return found is not None and found == as_found(tensor)

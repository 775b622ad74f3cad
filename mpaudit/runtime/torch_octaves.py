"""A sample of a tensor, counted by power of two, without a word to the host."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

SAMPLE = 16384  # numbers of one tensor that are counted, at most
_LOWEST = -149  # exponent of float32's smallest subnormal
_NORMAL = -126 + 1 - _LOWEST  # the smallest normal exponent
_INF = 129 - _LOWEST  # behind the last exponent, 127
BINS = _INF + 2
"""Zeros, 277 exponents, inf, NaN."""


def sample(tensor: torch.Tensor) -> torch.Tensor:
    """Evenly spread numbers of a tensor, all of them where there are no more than SAMPLE.

    The stride has no factor in common with the number of elements, so that every row and every
    column of the tensor is in it.
    """
    flat = tensor.detach().reshape(-1) if tensor.is_contiguous() else _flat(tensor.detach())
    return flat[:: stride(flat.numel())]


def stride(elements: int) -> int:
    """The distance between two numbers of the sample of so many."""
    step = max(-(-elements // SAMPLE), 1)
    while step > 1 and math.gcd(step, elements) != 1:
        step += 1
    return step


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """The elements in the order of memory where that needs no copy."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    moved = tensor.permute(order)
    return moved.view(-1) if moved.is_contiguous() else moved.reshape(-1)


def counts(tensor: torch.Tensor) -> torch.Tensor:
    """How many numbers of a sample are in each of the BINS; wider ones as float32 holds them."""
    single = tensor.to(torch.float32)
    if tensor.device.type == "cpu" and (found := _ordinary(single)) is not None:
        return found
    magnitude = single.abs()
    tiny = magnitude < torch.finfo(torch.float32).tiny
    normal = torch.where(tiny, magnitude * 2.0**24, magnitude)
    exponents = (normal.view(torch.int32) >> 23) - torch.where(tiny, 127 + 24, 127)
    places = (exponents - (_LOWEST - 1)).clamp_(min=0) + torch.isnan(magnitude)
    one = torch.ones((), dtype=torch.int32, device=tensor.device).expand(places.shape)
    found = torch.zeros(BINS, dtype=torch.int32, device=tensor.device)
    return found.scatter_add_(0, places.to(torch.int64), one)


def _ordinary(single: torch.Tensor) -> torch.Tensor | None:
    """The same in a fifth of the time, of numbers that are zero or normal in float32, if all are."""
    fields = torch.bincount((single.contiguous().view(torch.int32) >> 23) & 255, minlength=256)
    zeros = single.numel() - int(single.count_nonzero())
    if int(fields[0]) != zeros or int(fields[255]):
        return None
    found = torch.zeros(BINS, dtype=torch.int64)
    found[0] = zeros
    found[_NORMAL : _NORMAL + 254] = fields[1:255]
    return found


def read(found: Sequence[float]) -> tuple[dict[int, int], int, int, int]:
    """Of what `counts` gave: the counts by exponent, then how many are zero, inf and NaN."""
    bins = {n + _LOWEST: int(count) for n, count in enumerate(found[1:_INF]) if count}
    return bins, int(found[0]), int(found[_INF]), int(found[_INF + 1])

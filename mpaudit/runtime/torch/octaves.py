"""A sample of a tensor, counted by power of two, without a word to the host."""

from __future__ import annotations

import math

import torch

from mpaudit.runtime.octaves import BINS, LOWEST, NORMAL, SAMPLE

BLOCK = 16  # neighbours that are taken together, for they come from memory together


def sample(tensor: torch.Tensor) -> torch.Tensor:
    """Evenly spread numbers of a tensor, all of them where there are no more than SAMPLE.

    The stride has no factor in common with the number of blocks, so that the sample does not keep to
    some columns of the tensor.
    """
    flat = tensor.detach().reshape(-1) if tensor.is_contiguous() else _flat(tensor.detach())
    if flat.numel() <= SAMPLE:
        return flat
    blocks = flat.numel() // BLOCK
    return flat[: blocks * BLOCK].view(blocks, BLOCK)[:: stride(blocks)]


def stride(blocks: int) -> int:
    """The distance between two blocks of the sample of so many."""
    step = max(-(-blocks // (SAMPLE // BLOCK)), 1)
    while step > 1 and math.gcd(step, blocks) != 1:
        step += 1
    return step


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """The elements in the order of memory where that needs no copy."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    moved = tensor.permute(order)
    return moved.view(-1) if moved.is_contiguous() else moved.reshape(-1)


def counts(tensor: torch.Tensor) -> torch.Tensor:
    """How many numbers of a sample are in each of the BINS; wider ones as float32 holds them."""
    magnitude = tensor.to(torch.float32).abs().reshape(-1)
    tiny = magnitude < torch.finfo(torch.float32).tiny
    normal = torch.where(tiny, magnitude * 2.0**24, magnitude)
    exponents = (normal.view(torch.int32) >> 23) - torch.where(tiny, 127 + 24, 127)
    places = (exponents - (LOWEST - 1)).clamp_(min=0) + torch.isnan(magnitude)
    one = torch.ones((), dtype=torch.int32, device=tensor.device).expand(places.shape)
    found = torch.zeros(BINS, dtype=torch.int32, device=tensor.device)
    return found.scatter_add_(0, places.to(torch.int64), one)


def counts_on_cpu(tensor: torch.Tensor) -> list[float]:
    """The same at once; in a tenth of the time where all is zero or a normal number of float32."""
    single = tensor.to(torch.float32).contiguous().view(-1)
    fields = torch.bincount((single.view(torch.int32) >> 23) & 255, minlength=256).tolist()
    zeros = single.numel() - int(single.count_nonzero())
    if fields[0] != zeros or fields[255]:
        return counts(tensor).tolist()  # type: ignore[no-any-return]
    return [zeros, *[0] * (NORMAL - LOWEST), *fields[1:255], 0, 0]

"""How the numbers of a tensor lie in memory."""

from __future__ import annotations

import torch


def gapless(tensor: torch.Tensor) -> bool:
    """Whether its numbers lie side by side, in whatever order, each once."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for step, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if step != expected:
                return False
            expected *= size
    return True


def once(tensor: torch.Tensor) -> torch.Tensor:
    """Its numbers in the order of memory, those that it repeats once: torch would copy what is not
    contiguous before it compares."""
    if tensor.is_contiguous():
        return tensor
    lies = sorted(
        ((step, size) for size, step in zip(tensor.shape, tensor.stride(), strict=True) if step),
        reverse=True,
    )
    return tensor.as_strided([size for _, size in lies], [step for step, _ in lies])

"""Numbers of tensors in the host's memory: they are there at once."""

from __future__ import annotations

import math
import threading

import torch

from mpaudit.runtime.measured import Values, of_counts
from mpaudit.runtime.torch.aside import aside, unwatched
from mpaudit.runtime.torch.lying import once


class _Scratch(threading.local):
    """Two numbers of each dtype that an operation of this thread may write to."""

    def __init__(self) -> None:
        self._made: dict[torch.dtype, tuple[torch.Tensor, tuple[torch.Tensor, ...]]] = {}

    def of(self, dtype: torch.dtype) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Both in one tensor, and each in one."""
        if dtype not in self._made:
            both = torch.empty(2, dtype=dtype)
            self._made[dtype] = both, both.unbind()
        return self._made[dtype]


_scratch = _Scratch()


def _range_on_cpu(tensor: torch.Tensor) -> tuple[float, float]:
    """The least and the largest number, in one pass; both are NaN where one is."""
    both, each = _scratch.of(tensor.dtype)
    with aside():
        lies = once(tensor)
        if torch._C._len_torch_dispatch_stack():
            with unwatched():
                torch.aminmax(lies, out=each)
        else:
            torch.aminmax(lies, out=each)
    low, high = both.tolist()
    return low, high


def amax_on_cpu(tensor: torch.Tensor) -> float:
    """The largest magnitude; inf and NaN where there are such."""
    low, high = _range_on_cpu(tensor)
    return max(-low, high) + 0.0  # of zeros it may be -0.0


def on_cpu(tensor: torch.Tensor) -> Values:
    """In one pass over the tensor, and in more only where something is not finite."""
    low, high = _range_on_cpu(tensor)
    if -math.inf < low and high < math.inf:  # no function is called: of NaN neither is true
        return Values(tensor.numel(), max(-low, high) + 0.0, 0, 0, top=high)
    with aside(), unwatched():
        return of_counts(tensor.numel(), _counted(tensor))


def _counted(tensor: torch.Tensor) -> list[float]:
    """Largest finite magnitude; how many are inf, NaN, -inf."""
    magnitude = tensor.abs()
    finite = torch.where(magnitude < math.inf, magnitude, torch.zeros_like(magnitude))
    bad = (tensor == math.inf, tensor.isnan(), tensor == -math.inf)
    return [finite.amax().item(), *(int(each.count_nonzero()) for each in bad)]

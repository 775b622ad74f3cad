"""Numbers of tensors on a GPU: one kernel of Triton for each; two operations of torch without it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from mpaudit.runtime.measured import Values, of_counts, of_range
from mpaudit.runtime.torch.lying import gapless, once
from mpaudit.runtime.torch.ring import Ring

Join = Callable[[torch.Tensor, torch.Tensor], None]
"""Joins the numbers of a tensor without gaps to a row, as `mpaudit.runtime.torch.fused` does."""

_INF, _NAN = float("inf"), float("nan")
_KNOWN = (-7.5, _INF, _NAN, 0.0, -_INF, _NAN)
_EXPECTED = [7.5, 1.0, 2.0, 1.0]


class OnCuda:
    """Measures tensors on GPUs; `failed` is told why Triton cannot do it."""

    def __init__(self, failed: Callable[[str, Exception], None]) -> None:
        self._failed = failed
        self._fused: dict[tuple[torch.device, torch.dtype], Join | None] = {}

    def measure(self, tensor: torch.Tensor, ring: Ring, receive: Callable[[Values], None]) -> None:
        """Have a tensor measured; `receive` gets what was found when the ring is read."""
        key, elements = (tensor.device, tensor.dtype), tensor.numel()
        if key not in self._fused:
            self._fused[key] = self._found(*key)
        join = self._fused[key]
        if join is not None and gapless(tensor):
            join(tensor, ring.row(lambda read: receive(of_counts(elements, read))))
        else:
            row = ring.row(lambda read: receive(of_range(elements, read[0], read[1])))
            row[:2].copy_(least_and_largest(tensor))

    def _found(self, device: torch.device, dtype: torch.dtype) -> Join | None:
        """The kernel, if it works: it is tried, the only time that the host waits for the device.

        Triton is left alone in a process that has TensorFlow already: loading it after that ends in a
        segmentation fault (TensorFlow 2.21, Triton 3.8).
        """
        if "tensorflow" in sys.modules and "triton" not in sys.modules:
            return None
        try:
            from mpaudit.runtime.torch import fused
        except ImportError:  # there is no Triton, on Windows for instance
            return None
        processors = torch.cuda.get_device_properties(device).multi_processor_count

        def join(tensor: torch.Tensor, row: torch.Tensor) -> None:
            with torch.cuda.device(device):
                fused.join(tensor, row, processors)

        allowed = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        try:
            return join if works(join, device, dtype) else None
        except Exception as problem:  # a compiler is missing, say: torch can do it as well
            self._failed("Triton's kernel", problem)
            return None
        finally:
            torch.cuda.set_sync_debug_mode(allowed)


def least_and_largest(tensor: torch.Tensor) -> torch.Tensor:
    """Both in one tensor of their dtype; NaN where one number is."""
    both = tensor.new_empty(2)
    torch.aminmax(once(tensor), out=both.unbind())
    return both


def works(join: Join, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether what is joined of known numbers is right."""
    row = torch.zeros(4, dtype=torch.float64, device=device)
    join(torch.tensor(_KNOWN, device=device).to(dtype), row)
    return bool(row.tolist() == _EXPECTED)

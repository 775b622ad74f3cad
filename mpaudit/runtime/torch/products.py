"""Matrix products that say in which dtype the result is to be: torch has them for GPUs alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._C import DispatchKey, DispatchKeySet, _ExcludeDispatchKeyGuard

_AUTOCAST = DispatchKeySet(DispatchKey.AutocastCPU)
_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")


def products_with_a_dtype() -> Callable[[], None]:
    """Have them on the CPU (`out_dtype=`, from torch 2.8 on), until what comes back is called.

    They do what a GPU does: 16-bit inputs, sums in float32, which are the result.
    """
    library = torch.library.Library("aten", "IMPL")
    for name in _PRODUCTS:
        packet = getattr(torch.ops.aten, name)
        if "dtype" in packet.overloads() and not _there(name):
            library.impl(f"{name}.dtype", _made(packet.default), "CPU")
            library.impl(f"{name}.dtype_out", _written(packet.default), "CPU")
    undo: Callable[[], None] = library._destroy
    return undo


def _there(name: str) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}.dtype", "CPU"))


def _made(operation: Any) -> Callable[..., torch.Tensor]:
    def kernel(*args: Any, **kwargs: Any) -> torch.Tensor:
        *operands, dtype = args
        with _ExcludeDispatchKeyGuard(_AUTOCAST):  # which casts none of them
            result: torch.Tensor = operation(*(each.float() for each in operands), **kwargs)
        return result.to(dtype)

    return kernel


def _written(operation: Any) -> Callable[..., torch.Tensor]:
    make = _made(operation)

    def kernel(*args: Any, out: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return out.copy_(make(*args, **kwargs))

    return kernel

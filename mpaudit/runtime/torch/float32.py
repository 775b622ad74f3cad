"""Torch in float32 where a script asks for float16 or bfloat16: the arithmetic of a reference run.

Works below autograd and autocast, on the operations that really happen: what would be cast or made
in low precision is float32, whoever asked for it (autocast, `.half()`, a factory). The script takes
the same branches as ever: regions and scalers are there, and a scale that is a power of two changes
no bit in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

LOW = frozenset({torch.float16, torch.bfloat16})
DIGITS = {"float16": 11, "bfloat16": 8}
"""Bits of the significand, the hidden one included."""
_PRODUCT_NAMES = """mm addmm bmm baddbmm addbmm mv addmv dot convolution convolution_backward linear
linear_backward mkldnn_rnn_layer mkldnn_rnn_layer_backward _thnn_fused_lstm_cell"""
_RANDOM_NAMES = """bernoulli bernoulli_ cauchy_ exponential_ geometric_ log_normal_ native_dropout
normal normal_ rand rand_like randn randn_like random_ uniform uniform_"""
_PRODUCTS = frozenset(_PRODUCT_NAMES.split())
_RANDOM = frozenset(_RANDOM_NAMES.split())
_ATTENTION = "_scaled_dot_product"


class Float32(TorchDispatchMode):  # type: ignore[misc]
    """Every operation in float32; with `digits`, results of low precision are rounded to as many.

    Rounded are casts, and products forward and backward: what low precision costs in digits,
    without what it costs in range.
    """

    def __init__(self, digits: int | None = None) -> None:
        super().__init__()
        self._digits = digits

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation."""
        kwargs = dict(kwargs or {})
        name = func._schema.name.removeprefix("aten::")
        low = kwargs.get("dtype") in LOW
        if low:
            kwargs["dtype"] = torch.float32
        if func._schema.is_mutable:
            return func(*args, **kwargs)
        args = _each(args, _wide)
        rounds = low or name in _PRODUCTS or name.startswith(_ATTENTION)
        if not rounds or self._digits is None:
            return _each(func(*args, **kwargs), _wide)
        digits = self._digits
        if not low:
            args = _each(args, lambda tensor: rounded(tensor, digits))
        return _each(func(*args, **kwargs), lambda tensor: rounded(_wide(tensor), digits))


class SameNoise(TorchDispatchMode):  # type: ignore[misc]
    """Random numbers in low precision are those that float32 would get, rounded.

    Torch draws others for float16 than for float32 from the same seed; two runs could not be
    compared.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation."""
        kwargs = dict(kwargs or {})
        if func._schema.name.removeprefix("aten::") not in _RANDOM:
            return func(*args, **kwargs)
        first = args[0] if args and isinstance(args[0], torch.Tensor) else None
        own = first.dtype if first is not None and first.dtype in LOW else None
        asked = kwargs.get("dtype") or own
        if asked not in LOW:
            return func(*args, **kwargs)
        if func._schema.is_mutable and first is not None:
            first.copy_(func(first.float(), *args[1:], **kwargs))
            return first
        if kwargs.get("dtype") is not None:
            kwargs["dtype"] = torch.float32
        result = func(*_each(args, _wide), **kwargs)
        return _each(result, lambda tensor: tensor.to(asked))


def rounded(tensor: torch.Tensor, digits: int) -> torch.Tensor:
    """A float32 tensor rounded to so many significant bits (half to even), with float32's range."""
    if tensor.dtype is not torch.float32 or tensor.layout is not torch.strided:
        return tensor
    cut = 24 - digits
    bits = tensor.detach().view(torch.int32)  # of the same size: strides do not matter
    bits = bits + ((1 << (cut - 1)) - 1) + ((bits >> cut) & 1)
    kept = (bits & -(1 << cut)).view(torch.float32)
    return torch.where(torch.isfinite(tensor), kept, tensor)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in LOW else tensor


def _each(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`value` with every tensor in it, also in lists and tuples, changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_each(each, change) for each in value)
    return value

"""Casts between floating dtypes: which layer they happened in, and what they cost the gradients."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mpaudit.runtime.record import Cast, CastOf, Statistics
from mpaudit.runtime.torch_regions import dtype_name
from mpaudit.runtime.torch_repeat import Repeats
from mpaudit.runtime.torch_watch import Watch
from mpaudit.runtime.underflow import Rounded, Underflow

Current = Callable[[], "tuple[str, int] | None"]
"""Path and step of the layer that is being called."""

_FIRST, _EVERY = 2, 100  # steps whose casts are counted: the first ones, and every so many
_FLUSHED_EVERY = 10  # steps between two looks at flushed gradients, after as many in a row


class _Thread(threading.local):
    """What counts the casts of the call under way in one thread."""

    mode: _CountCasts | None = None


class Casts:
    """Writes casts down for the layer that is being called.

    The fact `cast_steps` says in how many steps they were counted: the count of a `Cast`, divided
    by it, is what a step costs. Compiled code is not looked at: it would run as eager code.
    """

    def __init__(self, watch: Watch, current: Current) -> None:
        self._watch = watch
        self._current = current
        self._steps: set[int] = set()
        self._underflow = Underflow(watch.tracer.known, watch.tracer.scale)
        watch.tracer.judging.append(self._underflow.problems)
        self._repeats = Repeats(watch)
        self._thread = _Thread()

    def begin(self, step: int) -> None:
        """The script calls a model, or the model enters a region: count the casts of this call if
        its step is a sampled one.

        The emulated policy tells of its casts itself; torch's own are seen as operations.
        """
        if self._watch.compiles or (step >= _FIRST and step % _EVERY):
            return
        region = self._watch.region
        if region is None or (self._watch.eager and region.device == "cuda"):
            return
        if self._thread.mode is None and torch._C._len_torch_dispatch_stack() == 0:
            self._thread.mode = _CountCasts(self)
            self._thread.mode.__enter__()

    def end(self) -> None:
        """The call is over."""
        if self._thread.mode is not None:
            mode, self._thread.mode = self._thread.mode, None
            mode.__exit__(None, None, None)

    def cast(self, what: CastOf, tensor: torch.Tensor, result: torch.Tensor) -> None:
        """`tensor` was cast to `result`."""
        with self._watch.guard("cast"):
            layer = self._current()
            if layer is None or (layer[1] >= _FIRST and layer[1] % _EVERY):
                return
            if layer[1] not in self._steps:
                self._steps.add(layer[1])
                self._watch.tracer.note("cast_steps", len(self._steps))
            names = dtype_name(tensor.dtype), dtype_name(result.dtype)
            size = result.numel() * result.dtype.itemsize
            self._watch.tracer.cast(Cast(layer[0], what, *names, 1, size))
            self._repeats.cast(*layer, tensor, result)

    def rounded(self, tensor: torch.Tensor, what: CastOf, dtype: torch.dtype) -> None:
        """`tensor` is an operand whose gradient will be rounded to `dtype`: count what is lost."""
        if (where := self._sampled(tensor)) is not None:
            path, step = where

            def lost(gradient: torch.Tensor) -> None:
                with self._watch.guard("flushed gradients"):
                    self._lost(gradient, path, step, what, dtype)

            tensor.register_hook(lost)

    def widened(self, tensor: torch.Tensor, source: torch.dtype) -> None:
        """`tensor` was cast from `source`, to which its gradient will be rounded on its way back."""
        if source is torch.float16 and (where := self._sampled(tensor)) is not None:
            path, step = where

            def gone(gradient: torch.Tensor) -> None:
                with self._watch.guard("flushed gradients"):
                    self._gone(gradient, path, step, "activation")

            tensor.register_hook(gone)

    def _sampled(self, tensor: torch.Tensor) -> tuple[str, int] | None:
        layer = self._current() if tensor.requires_grad else None
        if layer is None or (layer[1] >= _FLUSHED_EVERY and layer[1] % _FLUSHED_EVERY):
            return None
        return layer

    def _gone(self, gradient: torch.Tensor, path: str, step: int, what: CastOf) -> int:
        """Count what float16 makes zero of a gradient, for the finding; returns the count."""
        magnitude = gradient.detach().abs()
        small = magnitude[(magnitude > 0) & (magnitude <= _zero(torch.float16))]
        sums = [float(each.sum(dtype=torch.float64)) for each in (small, magnitude)]
        nonzero = int(magnitude.count_nonzero())
        self._underflow.add(path, what, step, Rounded(small.numel(), nonzero, *sums))
        return int(small.numel())

    def _lost(
        self, gradient: torch.Tensor, path: str, step: int, what: CastOf, dtype: torch.dtype
    ) -> None:
        if dtype is torch.float16:
            flushed = self._gone(gradient, path, step, what)
        else:
            magnitude = gradient.detach().abs()
            flushed = int(((magnitude > 0) & (magnitude <= _zero(dtype))).count_nonzero())
        weight, of = what == "parameter", gradient.numel()
        self._watch.tracer.measured(
            Statistics(
                path,
                "backward",
                dtype_name(dtype),
                flushed=None if weight else flushed,
                flushed_of=None if weight else of,
                flushed_weight=flushed if weight else None,
                flushed_weight_of=of if weight else None,
            )
        )


def _zero(dtype: torch.dtype) -> float:
    """Halfway to the smallest subnormal, which rounds to the even neighbour: zero."""
    limits = torch.finfo(dtype)
    return float(limits.smallest_normal * limits.eps / 2)


class _CountCasts(TorchDispatchMode):  # type: ignore[misc]
    """Sees every operation below autograd, and lets it run as it is."""

    def __init__(self, casts: Casts) -> None:
        super().__init__()
        self._casts = casts

    def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operation is torch.ops.aten._to_copy.default:
            source, target = args[0].dtype, kwargs.get("dtype")
            between = target is not None and target.is_floating_point and source.is_floating_point
            if between and target is not source:
                own = isinstance(args[0], torch.nn.Parameter)
                result = operation(*args, **kwargs)
                self._casts.cast("parameter" if own else "activation", args[0], result)
                return result
        return operation(*args, **kwargs)

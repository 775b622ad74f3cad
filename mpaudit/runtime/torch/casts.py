"""Casts between floating dtypes: which layer they happened in, and what they cost the gradients."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mpaudit.autocast_lists import PROMOTE
from mpaudit.runtime.record import Cast, CastOf, Statistics
from mpaudit.runtime.torch.guard import Guard
from mpaudit.runtime.torch.known import Known
from mpaudit.runtime.torch.regions import dtype_name
from mpaudit.runtime.torch.repeat import Repeats
from mpaudit.runtime.torch.watch import Watch, unwatched
from mpaudit.runtime.underflow import Rounded, Underflow

Current = Callable[[], "tuple[str, int] | None"]
"""Path and step of the layer that is being called."""

_FIRST, _EVERY = 2, 100  # steps whose casts are counted: the first ones, and every so many
_FLUSHED_EVERY = 10  # steps between two looks at flushed gradients, after as many in a row


Why = Literal["listed", "operand"]
"""Why autocast computes in float32: it does so with this operation, or another operand is float32."""


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
        self._steps: set[int] = set()  # with casts
        self._chosen: set[int] = set()  # whose casts are counted, if there are any
        self._underflow = Underflow(watch.tracer.known, watch.tracer.scale)
        watch.tracer.judging.append(self._underflow.problems)
        watch.tracer.forgetting.append(self._forget)
        self._repeats = Repeats(watch)
        self._thread = _Thread()
        self._fallen: dict[str, dict[str, dict[str, int]]] = {}

    def _forget(self) -> None:
        """Begin anew."""
        for each in (self._steps, self._chosen, self._fallen):
            each.clear()

    def begin(self, step: int) -> None:
        """The script calls a model, or the model enters a region: count the casts of this call if
        its step is a sampled one.

        The emulated policy tells of its casts itself; torch's own are seen as operations.
        """
        region = self._watch.region
        if self._watch.compiles or region is None or not self._due(step):
            return
        if self._watch.eager and region.device == "cuda":
            return
        if self._thread.mode is None and torch._C._len_torch_dispatch_stack() == 0:
            self._thread.mode = _CountCasts(self)
            self._thread.mode.__enter__()

    def end(self) -> None:
        """The call is over."""
        if self._thread.mode is not None:
            mode, self._thread.mode = self._thread.mode, None
            mode.__exit__(None, None, None)

    def over(self) -> None:
        """A step is over."""
        self._repeats.over()

    def cast(self, what: CastOf, tensor: torch.Tensor, result: torch.Tensor) -> None:
        """`tensor` was cast to `result`."""
        with self._watch.guard("cast"):
            layer = self._counted()
            if layer is None:
                return
            names = dtype_name(tensor.dtype), dtype_name(result.dtype)
            size = result.numel() * result.dtype.itemsize
            self._watch.tracer.cast(Cast(layer[0], what, *names, 1, size))
            self._repeats.cast(*layer, tensor, result)

    def _due(self, step: int) -> bool:
        """Whether the casts of a step are counted: of the first ones in regions, and every so many."""
        if len(self._chosen) < _FIRST or not step % _EVERY:
            self._chosen.add(step)
        return step in self._chosen

    def _counted(self) -> tuple[str, int] | None:
        """The layer that is being called, if its step is one whose casts are counted.

        What is asked of a tensor under `torch.jit.trace`, as its size is, becomes a part of the graph.
        """
        layer = self._current()
        if layer is None or unwatched() or not self._due(layer[1]):
            return None
        if layer[1] not in self._steps:
            self._steps.add(layer[1])
            self._watch.tracer.note("cast_steps", len(self._steps))
        return layer

    def guard(self) -> Guard:
        """A block in which this may fail without harm."""
        return self._watch.guard("casts")

    def fell_back(self, operation: str, why: Why) -> None:
        """An operation was given 16-bit values and computes in float32."""
        with self._watch.guard("cast"):
            layer = self._counted()
            if layer is not None:
                reasons = self._fallen.setdefault(layer[0], {}).setdefault(operation, {})
                reasons[why] = reasons.get(why, 0) + 1
                self._watch.tracer.note("float32_operations", self._fallen)

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
        layer = self._current() if tensor.requires_grad and not unwatched() else None
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
        self._widened = Known()  # float32 tensors that were made of 16-bit ones

    def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operation is torch.ops.aten._to_copy.default:
            source, target = args[0].dtype, kwargs.get("dtype")
            between = target is not None and target.is_floating_point and source.is_floating_point
            if between and target is not source:
                own = isinstance(args[0], torch.nn.Parameter)
                result = operation(*args, **kwargs)
                self._casts.cast("parameter" if own else "activation", args[0], result)
                if target is torch.float32:
                    self._widened.set(result, True)
                return result
        result = operation(*args, **kwargs)
        with self._casts.guard():
            if (why := self._fell_back(operation, args, result)) is not None:
                self._casts.fell_back(plain(operation), why)
        return result

    def _fell_back(self, operation: Any, args: Any, result: Any) -> Why | None:
        given = [each for arg in args for each in (arg if isinstance(arg, list) else (arg,))]
        given = [e for e in given if isinstance(e, torch.Tensor) and e.is_floating_point()]
        dtypes = {each.dtype for each in given}
        if torch.float32 not in dtypes or not isinstance(result, torch.Tensor):
            return None
        if dtypes & {torch.float16, torch.bfloat16}:
            mixed = result.dtype is torch.float32 and not operation._schema.is_mutable
            return "operand" if mixed else None
        widened = sum(self._widened.get(each) is not None for each in given)
        if not widened or not _decided(operation, given[0].device.type):
            return None
        whole = widened == len(given) or plain(operation) not in _PROMOTED
        return "listed" if whole else "operand"


_PROMOTED = {*PROMOTE.split(), "cat", "stack", "index_copy"}
_PARTS = {"log_softmax": "cross_entropy_loss"}  # an operation that another one is made of


def plain(operation: Any) -> str:
    """The name of an operation as people write it ("log_softmax")."""
    name = str(operation._schema.name).removeprefix("aten::").strip("_")
    return name.removeprefix("native_").removesuffix("_forward")


@cache
def _decided(operation: Any, device: str) -> bool:
    """Whether it is autocast that says in which dtype an operation computes on a device."""
    key = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}.get(device)
    name, overload = plain(operation), operation._overloadname.replace("default", "")
    full = {name, _PARTS.get(name, name), f"{name}.{overload}", f"{name}.int"}
    known = {f"aten::{each.rstrip('.')}" for each in full} & set(_every_operation())
    return key is not None and any(
        torch._C._dispatch_has_kernel_for_dispatch_key(each, key) for each in known
    )


@cache
def _every_operation() -> frozenset[str]:
    return frozenset(torch._C._dispatch_get_all_op_names())

"""CUDA's autocast on a machine without CUDA: its cast policy, and half-precision arithmetic.

The CPU's own autocast sends other operations to float16 than CUDA's, and float16 matrix products
take the CPU about 75 times as long as float32 ones. So while a remapped region is entered, the
kernels of the dispatch key AutocastCPU are replaced: an operation of the low-precision list gets
its inputs rounded to float16, computes in float32 and rounds its result, which is what a tensor
core does (float16 inputs, float32 accumulation). Autograd runs through the same casts, so gradients
are rounded too.

Which operations those are stands in `mpaudit.autocast_lists`.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._C import DispatchKey, DispatchKeySet, _ExcludeDispatchKeyGuard

from mpaudit.autocast_lists import FLOAT32, FLOAT32_RESULT, LOWER, NATIVE, PROMOTE
from mpaudit.runtime.record import CastOf
from mpaudit.runtime.torch.casts import Casts, Why, plain

_dtype = torch.get_autocast_dtype  # before it is replaced: the state as it really is
_KEYS = DispatchKeySet(DispatchKey.AutocastCPU)
_UNSAFE = """torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast.
Many models use a sigmoid layer right before the binary cross entropy layer.
In this case, combine the two layers using torch.nn.functional.binary_cross_entropy_with_logits
or torch.nn.BCEWithLogitsLoss.  binary_cross_entropy_with_logits and BCEWithLogits are
safe to autocast."""

_UNEXPECTED = "Unexpected floating ScalarType in at::autocast::prioritize"


class CudaPolicy:
    """Stands in for the CPU's autocast kernels while it is `active`."""

    def __init__(self, casts: Casts) -> None:
        self.active = False
        self._casts = casts
        self._library: Any = None
        self._cache: dict[int, tuple[weakref.ref[Any], torch.Tensor]] = {}
        with warnings.catch_warnings():  # torch warns of replaced kernels once in a process: now
            warnings.simplefilter("ignore")
            self.activate()
            self.deactivate()

    def activate(self) -> None:
        """Put CUDA's policy in place of the CPU's."""
        if self.active:
            return
        library = torch.library.Library("aten", "IMPL")
        for name, kernel in self._kernels():
            library.impl(name, kernel, "AutocastCPU")
        self._library = library
        self.active = True

    def deactivate(self) -> None:
        """Give the CPU's own autocast back."""
        if self.active:
            self._library._destroy()
            self._library = None
            self.active = False
        self.clear()

    def clear(self) -> None:
        """Forget the cast weights, as on leaving the outermost region."""
        self._cache.clear()

    def _kernels(self) -> Iterator[tuple[str, Any]]:
        kinds = {
            LOWER: self._lower,
            FLOAT32: self._float32,
            FLOAT32_RESULT: self._float32_result,
            PROMOTE: self._promote,
            NATIVE: self._native,
        }
        done = set()
        for names, make in kinds.items():
            for name in names.split():
                packet, _, overload = name.partition(".")
                operation = getattr(
                    getattr(torch.ops.aten, packet, None), overload or "default", None
                )
                if operation is not None:
                    done.add(name)
                    yield name, make(operation)
        yield "binary_cross_entropy", _refuse
        for name in torch._C._dispatch_get_all_op_names():
            short = name.removeprefix("aten::").removesuffix(".default")
            own = (
                name.startswith("aten::") and short not in done and short != "binary_cross_entropy"
            )
            if own and torch._C._dispatch_has_kernel_for_dispatch_key(name, "AutocastCPU"):
                yield short, torch.library.fallthrough_kernel

    def _lower(self, operation: Any) -> Callable[..., Any]:
        def kernel(*args: Any, **kwargs: Any) -> Any:
            dtype = _dtype("cpu")
            with _ExcludeDispatchKeyGuard(_KEYS):
                args = tuple(_each(args, lambda tensor: self._rounded(tensor, dtype)))
                return _each(operation(*args, **kwargs), lambda tensor: _to(tensor, dtype))

        return kernel

    def _float32(self, operation: Any) -> Callable[..., Any]:
        def kernel(*args: Any, **kwargs: Any) -> Any:
            self._tell(operation, args, "listed")
            with _ExcludeDispatchKeyGuard(_KEYS):
                args = tuple(_each(args, lambda tensor: self._cast(tensor, torch.float32)))
                return operation(*args, **kwargs)

        return kernel

    def _float32_result(self, operation: Any) -> Callable[..., Any]:
        names = [argument.name for argument in operation._schema.arguments]
        if "dtype" not in names:  # the norms: another overload takes the dtype
            return self._float32(operation)
        place = names.index("dtype")

        def kernel(*args: Any, **kwargs: Any) -> Any:
            given = args[place] if len(args) > place else kwargs.get("dtype")
            if given is None and _eligible(args[0]):
                self._tell(operation, args, "listed")
                args = args[:place]
                kwargs["dtype"] = torch.float32
            with _ExcludeDispatchKeyGuard(_KEYS):
                return operation(*args, **kwargs)

        return kernel

    def _promote(self, operation: Any) -> Callable[..., Any]:
        def kernel(*args: Any, **kwargs: Any) -> Any:
            dtypes: set[torch.dtype] = set()
            _each(args, lambda tensor: dtypes.add(tensor.dtype))
            low = _dtype("cpu")
            if dtypes - {torch.float32, low}:
                raise RuntimeError(_UNEXPECTED)
            widest = torch.float32 if torch.float32 in dtypes else low
            if widest is torch.float32:
                self._tell(operation, args, "operand")
            with _ExcludeDispatchKeyGuard(_KEYS):
                args = tuple(_each(args, lambda tensor: self._cast(tensor, widest)))
                return operation(*args, **kwargs)

        return kernel

    def _tell(self, operation: Any, args: Any, why: Why) -> None:
        low: list[bool] = []
        _each(args, lambda tensor: low.append(tensor.dtype is not torch.float32))
        if any(low):
            self._casts.fell_back(plain(operation), why)

    def _native(self, operation: Any) -> Callable[..., Any]:
        def kernel(*args: Any, **kwargs: Any) -> Any:
            dtypes: set[torch.dtype] = set()
            _each(args, lambda tensor: dtypes.add(tensor.dtype))
            with _ExcludeDispatchKeyGuard(_KEYS):
                if len(dtypes) != 1 or torch.float32 in dtypes:
                    return operation(*args, **kwargs)
                args = _each(args, lambda tensor: tensor.float())
                return _each(operation(*args, **kwargs), lambda tensor: _to(tensor, *dtypes))

        return kernel

    def _rounded(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`tensor` rounded to `dtype`, in float32 for the computation."""
        what: CastOf = "activation"
        cast = tensor
        leaf = tensor.is_leaf and tensor.requires_grad and not tensor._is_view()
        if tensor.dtype is torch.float32 and leaf:
            what = "parameter"
            known = self._cache.get(id(tensor))
            if known is not None and known[0]() is tensor:
                cast = known[1]
            else:
                with torch.enable_grad():  # as torch makes the copies that it keeps, from 2.10 on
                    cast = self._cast(tensor, dtype)
                if torch.is_autocast_cache_enabled() and cast.requires_grad:
                    self._cache[id(tensor)] = (weakref.ref(tensor), cast)
        elif tensor.dtype is not dtype:
            cast = self._cast(tensor, dtype)
        operand = cast.float()
        self._casts.rounded(operand, what, dtype)
        return operand

    def _cast(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if tensor.dtype is dtype or not _eligible(tensor):
            return tensor
        what: CastOf = "parameter" if tensor.is_leaf and tensor.requires_grad else "activation"
        cast = tensor.to(dtype)
        self._casts.cast(what, tensor, cast)
        if dtype is torch.float32:
            self._casts.widened(cast, tensor.dtype)
        return cast


def _refuse(*_: Any, **__: Any) -> Any:
    raise RuntimeError(_UNSAFE)


def _eligible(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.dtype is not torch.float64
    )


def _to(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.dtype is torch.float32 else tensor


def _each(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """`value` with every eligible tensor in it, also in lists and tuples, changed."""
    if _eligible(value):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_each(each, change) for each in value])
    return value

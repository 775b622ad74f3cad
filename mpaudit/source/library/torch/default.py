"""What torch makes where nothing is stated: the default dtype and the default device.

The default dtype is a fact of the path, like a tensor's own: none while the script has set none, which
is float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from mpaudit.source.engine.dtypes import DTYPES, Dtype, combined, dtype_named
from mpaudit.source.engine.registry import function
from mpaudit.source.engine.values import NONE, UNKNOWN, Choice, Const, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

_DTYPE, _DEVICE = (0, "@default_dtype"), (0, "@default_device")
_CAST_BY_AUTOCAST = ("float16", "bfloat16", "float32")


@function("torch.set_default_dtype")
def set_default_dtype(call: Call) -> Value:
    """`torch.set_default_dtype(torch.float16)`."""
    call.path.heap[_DTYPE] = stated_dtype(call, call.argument(0, "d")) or UNKNOWN
    return NONE


@function("torch.set_default_tensor_type")
def set_default_tensor_type(call: Call) -> Value:
    """`torch.set_default_tensor_type("torch.cuda.HalfTensor")`."""
    call.path.heap[_DTYPE] = stated_dtype(call, call.argument(0, "t")) or UNKNOWN
    return set_default_device(call)


@function("torch.set_default_device")
def set_default_device(call: Call) -> Value:
    """From here on modules are made who knows where."""
    call.path.heap[_DEVICE] = UNKNOWN
    return NONE


def stated_dtype(call: Call, given: Value | None) -> Value | None:
    """The fact that a dtype object, a Choice of such, or `other.dtype` states."""
    if isinstance(given, Choice):
        yes, no = stated_dtype(call, given.yes), stated_dtype(call, given.no)
        return None if yes is no is None else Choice(given.condition, yes or UNKNOWN, no or UNKNOWN)
    if isinstance(given, Const) and isinstance(given.value, str):
        name = DTYPES.get(given.value)
    else:
        name = dtype_named(given)
    return None if name is None else Const(Dtype(name, call.span, "cast"))


def default_dtype(call: Call, *, lone: bool = False) -> Value:
    """The fact of a tensor that is made here with no dtype stated; `lone`: it has no dimensions."""
    known = call.path.heap.get(_DTYPE)
    if known is None:
        return Const(Dtype("float32", call.span, "made", lone=lone))
    made = combined(
        lambda of: replace(of, how="made", lone=lone) if isinstance(of, Dtype) else None,
        (known,),
        call.path,
    )
    return made or UNKNOWN


def autocast_casts(path: Path) -> bool:
    """Whether autocast casts what is made by default here: it leaves float64 alone."""
    known = path.heap.get(_DTYPE)
    if known is None:
        return True
    return (
        isinstance(known, Const)
        and isinstance(known.value, Dtype)
        and known.value.name in _CAST_BY_AUTOCAST
    )


def made_by_default(module: Thing, path: Path) -> None:
    """Note what the defaults make of a module's parameters."""
    known = path.heap.get(_DTYPE)
    if known is not None:
        path.learn(module, param_dtype=known)


def device_by_default(path: Path) -> bool:
    """Whether a default device was set."""
    return _DEVICE in path.heap

"""What happens inside autocast regions to the cast copies of weights that they keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import (
    Captured,
    CastCacheCleared,
    RegionBackward,
    RegionStep,
    SentToDevice,
)
from mpaudit.source.engine.registry import function, method
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import (
    FALSE,
    NONE,
    TRUE,
    UNKNOWN,
    Const,
    External,
    Pack,
    Thing,
    Value,
)
from mpaudit.source.library.torch.device import device_type

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

_CACHE = (0, "@cast_cache")
_COMPILED = (0, "@compiled")
_COMPILE = External("torch.compile")


def caches(call: Call, region: Thing) -> bool:
    """Whether a region casts weights, be it in one of the cases it provides for, and keeps the copies."""
    path = call.path
    described = call.engine.describe(region, path)
    if described is None or _CACHE in path.heap:
        return False
    if not described.may_cast_to("float16", "bfloat16"):
        return False
    switch = call.engine.logic.settled(path.known(region, "@cache"), path)
    return switch is None or switch in (NONE, TRUE)


def backward_inside(call: Call, loss: Thing) -> None:
    """Tell of `loss.backward()` where the loss was computed in a region that is still entered."""
    path = call.path
    region = path.known(loss, "@region")
    held = entry(call)
    if held is None or not isinstance(region, Thing) or region not in path.regions:
        return
    outermost = call.engine.describe(path.regions[0], path)
    if outermost is None or not caches(call, region) or compiled(call):
        return
    call.emit(
        RegionBackward(
            at=call.span,
            occasional=call.occasional,
            entry=held,
            region=outermost,
        )
    )


def stepped_inside(call: Call, optimizer: Value) -> None:
    """Tell of a step in a region; one of weights that are in half themselves changes nothing kept."""
    held = entry(call)
    if held is None:
        return
    owners = call.path.known(optimizer, "@owners")
    models = owners.items if isinstance(owners, Pack) else ()
    if models and all(call.path.known(model, "@param_dtype") is not None for model in models):
        return
    call.emit(RegionStep(at=call.span, occasional=call.occasional, entry=held))


def entry(call: Call) -> tuple[int, int] | None:
    """The entry of the outermost region in progress."""
    if not call.path.regions:
        return None
    outermost = call.path.regions[0]
    entered = call.path.known(outermost, "@entered")
    return (outermost.uid, entered.uid) if isinstance(entered, Thing) else None


def compiled(call: Call) -> bool:
    """Whether compiled code may run here: it keeps no copies."""
    return _COMPILED in call.path.heap or any(
        frame.function is not None and _COMPILE in frame.function.decorators
        for frame in call.path.frames
    )


def compiling(call: Call) -> None:
    """Note that something was compiled."""
    call.path.heap[_COMPILED] = UNKNOWN


@method("Module", "compile")
def compile_in_place(call: Call) -> Value:
    """`model.compile()`."""
    compiling(call)
    return NONE


@function("torch.clear_autocast_cache")
def clear(call: Call) -> Value:
    """`torch.clear_autocast_cache()`."""
    call.emit(CastCacheCleared(at=call.span, occasional=call.occasional))
    return NONE


@function("torch.set_autocast_cache_enabled")
def switch_cache(call: Call) -> Value:
    """`torch.set_autocast_cache_enabled(False)`."""
    if call.argument(0) == TRUE:
        call.path.heap.forget(_CACHE)
    else:
        call.path.heap[_CACHE] = FALSE
    return NONE


@function("torch.jit.trace", "torch.jit.trace_module", "torch.cuda.make_graphed_callables")
@function("torch.cuda.graphs.make_graphed_callables")
def capture(call: Call) -> Value | None:
    """`torch.jit.trace(model, example)`; what comes back is as unknown as ever."""
    region = call.engine.region(call.path)
    described = call.engine.describe(region, call.path)
    if region is None or described is None or not caches(call, region):
        return None
    if call.keywords.get("check_trace") == FALSE:  # then it runs once only
        return None
    how = call.name.rpartition(".")[2]
    if "graph" not in how or described.device == "cuda":
        how = how if "graph" in how else f"torch.jit.{how}"
        call.emit(
            Captured(at=call.span, occasional=call.occasional, how=how, region=described),
        )
    return None


@on_result(methods=("cuda", "cpu", "xpu", "to"))
def sent(call: Call, _: Value, __: Value) -> None:
    """`x.cuda()`, `x.to("cuda")` of a tensor inside a region for that device."""
    described = call.engine.describe(call.engine.region(call.path), call.path)
    if described is None or not isinstance(call.receiver, Thing) or call.receiver.kind:
        return
    target = Const(call.name) if call.name != "to" else call.argument(0, "device")
    if isinstance(target, Thing) and target.kind == "device":
        target = call.path.known(target, "@type")
    if device_type(target, call.path) == Const(described.device):
        call.emit(SentToDevice(at=call.span, occasional=call.occasional, region=described))

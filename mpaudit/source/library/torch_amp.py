"""torch.amp: GradScaler, autocast, backward."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import (
    Backward,
    GradientsClipped,
    LossScaled,
    Ref,
    ScalerMade,
    ScalerStep,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.source.library.registry import (
    attributes,
    base,
    function,
    method,
    on_augmented,
)
from mpaudit.source.values import (
    FALSE,
    NONE,
    NOWHERE,
    TRUE,
    Choice,
    Const,
    External,
    Pack,
    Thing,
    Value,
)

if TYPE_CHECKING:
    from mpaudit.source.call import Calls
    from mpaudit.source.path import Path
    from mpaudit.source.request import Call

LEGACY_SCALERS = (
    "torch.cuda.amp.GradScaler",
    "torch.cuda.amp.grad_scaler.GradScaler",
    "torch.cpu.amp.GradScaler",
    "torch.cpu.amp.grad_scaler.GradScaler",
)
SCALERS = (
    "torch.amp.GradScaler",
    "torch.amp.grad_scaler.GradScaler",
    "torch.GradScaler",
)
SHARDED_SCALERS = (
    "torch.distributed.fsdp.sharded_grad_scaler.ShardedGradScaler",
    "torch.distributed.fsdp.ShardedGradScaler",
)
LEGACY_AUTOCASTS = {
    "torch.cuda.amp.autocast": "cuda",
    "torch.cuda.amp.autocast_mode.autocast": "cuda",
    "torch.cpu.amp.autocast": "cpu",
    "torch.cpu.amp.autocast_mode.autocast": "cpu",
}
AUTOCASTS = ("torch.autocast", "torch.amp.autocast", "torch.amp.autocast_mode.autocast")
DEFAULT_DTYPE = {"cuda": "float16", "xpu": "float16", "mps": "float16", "cpu": "bfloat16"}
DTYPES = {
    "torch.float16": "float16",
    "torch.half": "float16",
    "torch.bfloat16": "bfloat16",
    "torch.float32": "float32",
    "torch.float": "float32",
}


# GradScaler


@function(*LEGACY_SCALERS, *SCALERS, *SHARDED_SCALERS)
def make_scaler(call: Call) -> Value:
    """`GradScaler(...)`."""
    made = call.made("GradScaler")
    _switch(call, made, call.name)
    return made


def _switch(call: Call, made: Thing, name: str) -> None:
    position = 4 if name in LEGACY_SCALERS else 5
    enabled = call.argument(position, "enabled")
    if enabled is not None and not call.engine.logic.decide(enabled, call.path):
        call.path.learn(made, off=TRUE)
        return
    call.emit(ScalerMade(at=call.span, occasional=call.occasional, scaler=Ref(made.uid, "")))


base("GradScaler", *LEGACY_SCALERS, *SCALERS, *SHARDED_SCALERS, adopt=_switch)


def _off(call: Call) -> bool:
    return call.path.known(call.thing, "@off") is not None


@method("GradScaler", "scale")
def scale(call: Call) -> Value:
    """`scaler.scale(loss)`: the loss itself where the scaler is off."""
    loss = call.picked(0, "outputs")
    if loss is None or _off(call):
        return loss or NONE
    if isinstance(loss, Pack):
        return Pack(tuple(_scaled(call, item) for item in loss.items))
    return _scaled(call, loss)


def _scaled(call: Call, loss: Value) -> Thing:
    before = call.path.known(loss, "@scaled")
    earlier = before.items if isinstance(before, Pack) else ()
    number = call.engine.identities.number("scaled", call.thing, loss, call.path.frame.iteration)
    made = call.engine.derive(Thing(number, since=call.path.frame.iteration), (loss,), call.path)
    call.path.learn(made, scaled=Pack((*earlier, call.thing)))
    call.emit(
        LossScaled(
            at=call.span,
            occasional=call.occasional,
            scaler=call.ref(call.thing),
            loss=call.ref(loss, call.argument_node(0, "outputs")),
            result=Ref(made.uid, ""),
        )
    )
    return made


def _optimizer(call: Call) -> Value | None:
    """The optimizer argument; what is None here was set where nobody looked, once for each scaler."""
    optimizer = call.picked(0, "optimizer")
    if optimizer is None or isinstance(optimizer, Thing):
        return optimizer
    return call.engine.term("optimizer of", call.thing)


@method("GradScaler", "unscale_")
def unscale(call: Call) -> Value:
    """`scaler.unscale_(optimizer)`."""
    optimizer = _optimizer(call)
    if not _off(call):
        call.emit(
            Unscaled(
                at=call.span,
                occasional=call.occasional,
                scaler=call.ref(call.thing),
                optimizer=call.ref(optimizer, call.argument_node(0, "optimizer")),
            )
        )
    return NONE


@method("GradScaler", "step")
def step(call: Call) -> Value:
    """`scaler.step(optimizer)`."""
    optimizer = _optimizer(call)
    if optimizer is not None and not _off(call):
        call.emit(
            ScalerStep(
                at=call.span,
                occasional=call.occasional,
                scaler=call.ref(call.thing),
                optimizer=call.ref(optimizer, call.argument_node(0, "optimizer")),
                wraps=_inner(optimizer, call.path),
            )
        )
    return call.made()


def _inner(optimizer: Value, path: Path) -> tuple[Ref, ...]:
    """The optimizers that an optimizer of the project holds as attributes."""
    if not isinstance(optimizer, Thing) or path.known(optimizer, "@class") is None:
        return ()
    held = (value for name, value in path.heap.of(optimizer.uid) if name[0] != "@")
    return tuple(Ref(v.uid, "") for v in held if isinstance(v, Thing) and v.kind == "Optimizer")


@method("GradScaler", "update")
def update(call: Call) -> Value:
    """`scaler.update()`."""
    given = call.argument(0, "new_scale")
    if not _off(call):
        call.emit(
            ScalerUpdate(
                at=call.span,
                occasional=call.occasional,
                scaler=call.ref(call.thing),
                to_given_scale=given is not None and given != NONE,
            )
        )
    return NONE


@method("GradScaler", "get_scale")
def get_scale(call: Call) -> Value:
    """`scaler.get_scale()`."""
    made = call.made()
    return call.path.learn(made, scale_of=call.thing, scaled=Pack(()))


@method("GradScaler", "is_enabled")
def is_enabled(call: Call) -> Value:
    """`scaler.is_enabled()`."""
    return FALSE if _off(call) else TRUE


@method("GradScaler", "state_dict", "load_state_dict", "set_growth_interval", "to")
def untouched(call: Call) -> Value:
    """Methods that change nothing a protocol watches."""
    return call.made()


# autocast


@function(*LEGACY_AUTOCASTS)
def legacy_autocast(call: Call) -> Value:
    """`torch.cuda.amp.autocast(enabled=True, dtype=torch.float16, cache_enabled=True)`."""
    device = LEGACY_AUTOCASTS[call.name]
    return _region(call, Const(device), call.argument(1, "dtype"), call.argument(0, "enabled"))


@function(*AUTOCASTS)
def autocast(call: Call) -> Value:
    """`torch.autocast(device_type, dtype=None, enabled=True, cache_enabled=None)`."""
    device = call.argument(0, "device_type")
    return _region(call, device, call.argument(1, "dtype"), call.argument(2, "enabled"))


def _region(call: Call, device: Value | None, dtype: Value | None, enabled: Value | None) -> Thing:
    made = call.made("autocast")
    call.engine.places.setdefault(made.uid, call.span)
    if isinstance(device, Const) and isinstance(device.value, str):
        device = Const(device.value.partition(":")[0])
    else:
        device = NONE
    if dtype is None or dtype == NONE:
        dtype = Const(DEFAULT_DTYPE.get(str(device.value)))
    elif isinstance(dtype, External):
        dtype = Const(DTYPES.get(dtype.name))
    elif not isinstance(dtype, Choice):
        dtype = NONE
    if isinstance(dtype, Choice):
        dtype = _named(dtype)
    return call.path.learn(made, device=device, dtype=dtype, enabled=enabled or TRUE)


def _named(dtype: Value) -> Value:
    if isinstance(dtype, Choice):
        return Choice(dtype.condition, _named(dtype.yes), _named(dtype.no))
    return Const(DTYPES.get(dtype.name)) if isinstance(dtype, External) else NONE


@function("contextlib.ExitStack", "contextlib.AsyncExitStack")
def exit_stack(call: Call) -> Value:
    """`ExitStack()`: what is entered through it is left with the `with` around it."""
    return call.made("ExitStack")


@method("ExitStack", "enter_context")
def enter_context(call: Call) -> Value:
    """`stack.enter_context(autocast("cuda"))`."""
    context = call.picked(0, "cm")
    if isinstance(context, Thing) and context.kind == "autocast":
        call.engine.enter_region(context, call.span, call.path)
    return call.made()


# backward and gradients


@method("", "backward")
def backward(call: Call) -> Value | None:
    """`loss.backward()`; with an argument it is somebody's `engine.backward(loss)`."""
    receiver = call.receiver
    if not isinstance(receiver, Thing) or receiver.kind not in ("", "list"):
        return None
    path, engine = call.path, call.engine
    scaled = path.known(receiver, "@scaled")
    scalers: tuple[Ref, ...] | None = None
    if isinstance(scaled, Pack) and not call.arguments:
        scalers = tuple(Ref(s.uid, "") for s in scaled.items if isinstance(s, Thing))
    weighted = path.known(receiver, "@weighted") is not None
    region = None if weighted else engine.describe(path.known(receiver, "@region"), path)
    call.emit(
        Backward(
            at=call.span,
            occasional=call.occasional,
            loss=call.ref(receiver),
            scalers=scalers,
            made_in=region,
            inside=None
            if call.argument(9, "create_graph")
            else engine.describe(_around(call), path),
        )
    )
    return NONE


def _around(call: Call) -> Thing | None:
    """The region that this pass through the innermost loop entered and is still in."""
    path = call.path
    region = call.engine.region(path)
    entered = path.known(region, "@entered") if region else None
    iteration = path.frame.iteration
    since = entered.since if isinstance(entered, Thing) else NOWHERE
    return region if since == iteration else None


@attributes("grad")
def gradient(engine: Calls, thing: Thing, path: Path) -> Value | None:
    """`parameter.grad`."""
    if path.known(thing, "@owners") is None or thing.kind:
        return None
    made = engine.derive(engine.term(".grad", thing), (thing,), path)
    return path.learn(made, gradient=TRUE)


@attributes("data")
def gradient_data(_: Calls, thing: Thing, path: Path) -> Value | None:
    """`parameter.grad.data` is the gradient."""
    return thing if path.known(thing, "@gradient") is not None else None


@method("", "clamp_", "clip_")
def gradient_clamped(call: Call) -> Value | None:
    """`parameter.grad.clamp_(-1, 1)`."""
    if call.receiver is None or call.path.known(call.receiver, "@gradient") is None:
        return None
    call.emit(
        GradientsClipped(
            at=call.span,
            occasional=call.occasional,
            how=call.name,
            optimizers=optimizers_of(call.receiver, call.path),
        )
    )
    return call.receiver


@method("", "div_", "mul_")
def gradient_scaled(call: Call) -> Value | None:
    """`parameter.grad.div_(scaler.get_scale())`."""
    if call.receiver is None or call.path.known(call.receiver, "@gradient") is None:
        return None
    scaler = call.path.known(call.argument(0) or NONE, "@scale_of")
    if isinstance(scaler, Thing):
        _unscaled_by_hand(call.engine, call.node, scaler, call.path)
    return call.receiver


@on_augmented
def gradient_divided(
    engine: Calls, node: ast.AugAssign, left: Value, right: Value, path: Path
) -> None:
    """`parameter.grad /= scaler.get_scale()`."""
    scaler = path.known(right, "@scale_of")
    if path.known(left, "@gradient") is not None and isinstance(scaler, Thing):
        _unscaled_by_hand(engine, node, scaler, path)


def _unscaled_by_hand(engine: Calls, node: ast.AST, scaler: Thing, path: Path) -> None:
    engine.emit(
        Unscaled(
            at=path.frame.module.span(node),
            scaler=Ref(scaler.uid, ""),
            optimizer=None,
            by_hand=True,
        ),
        path,
    )


def optimizers_of(parameters: Value | None, path: Path) -> tuple[Ref, ...] | None:
    """The optimizers that own parameters (or their gradients), None where that is not known."""
    owners = path.known(parameters, "@owners") if parameters is not None else None
    known = path.heap.get((0, "@optimizers"))
    if not isinstance(owners, Pack) or not isinstance(known, Pack):
        return None
    found = []
    for optimizer in known.items:
        held = path.known(optimizer, "@owners")
        if not isinstance(held, Pack):
            return None
        if set(held.items) & set(owners.items) and isinstance(optimizer, Thing):
            found.append(Ref(optimizer.uid, ""))
    return tuple(found) or None

"""torch.amp: GradScaler and autocast."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from mpaudit.event import (
    LossScaled,
    Ref,
    ScalerLoaded,
    ScalerMade,
    ScalerStep,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.finding import Position, Span
from mpaudit.source.api.torch_names import (
    AUTOCASTS,
    LEGACY_AUTOCASTS,
    LEGACY_SCALERS,
    SCALERS,
    SHARDED_SCALERS,
)
from mpaudit.source.engine.handover import handed
from mpaudit.source.engine.path import UNSET
from mpaudit.source.engine.registry import attributes, base, function, method
from mpaudit.source.engine.values import (
    FALSE,
    NONE,
    TRUE,
    UNKNOWN,
    Choice,
    Const,
    External,
    Pack,
    Thing,
    Value,
)
from mpaudit.source.library.torch.default import autocast_casts
from mpaudit.source.library.torch.device import decided, device_type
from mpaudit.source.library.torch.region import stepped_inside
from mpaudit.source.library.torch.scaler_switch import asked_for_bfloat16
from mpaudit.source.library.torch.training import closure_of
from mpaudit.source.trait.absence import never_called
from mpaudit.source.trait.guard import GUARDED, guard_after

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Identities, Path
    from mpaudit.source.engine.request import Call

DEFAULT_DTYPE = {"cuda": "float16", "xpu": "float16", "mps": "float16", "cpu": "bfloat16"}
DTYPES = {
    "torch.float16": "float16",
    "torch.half": "float16",
    "torch.bfloat16": "bfloat16",
    "torch.float32": "float32",
    "torch.float": "float32",
}
EDITED = re.compile(r"\.grad(?:\.data)?(?:\s*=(?!=|\s*None\b)|\.(?:copy|set)_\()")
"""What a file says that puts gradients where they belong by itself; None takes them away."""


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
    if enabled is not None:
        call.engine.logic.decisive(enabled)
    if enabled is not None and not call.engine.logic.decide(enabled, call.path):
        call.path.learn(made, off=TRUE)
        return
    call.emit(
        ScalerMade(
            at=call.span,
            occasional=call.occasional,
            scaler=Ref(made.uid, ""),
            for_bfloat16=asked_for_bfloat16(call, position),
        )
    )


base("GradScaler", *LEGACY_SCALERS, *SCALERS, *SHARDED_SCALERS, adopt=_switch)


def _off(call: Call) -> bool:
    fact = call.path.known(call.thing, "@off")
    if isinstance(fact, Choice):
        fact = call.engine.logic.pick(fact, call.path)
    if isinstance(fact, Thing):  # paths were joined that differ in more than one answer
        call.engine.logic.decisive(fact)
        return call.engine.logic.decide(fact, call.path)
    return fact is not None and fact != UNSET


@method("GradScaler", "scale")
def scale(call: Call) -> Value:
    """`scaler.scale(loss)`: the loss itself where the scaler is off."""
    loss = call.picked(0, "outputs")
    if loss is None:
        return NONE
    through = _passed_on if _off(call) else _scaled
    if isinstance(loss, Pack):
        return Pack(tuple(through(call, item) for item in loss.items))
    return through(call, loss)


def _passed_on(call: Call, loss: Value) -> Value:
    """A scaler that is switched off returns what it is given."""
    number = call.engine.identities.number("idle", call.thing, loss, call.path.frame.iteration)
    made = call.engine.derive(Thing(number, since=call.path.frame.iteration), (loss,), call.path)
    return call.path.learn(made, idle=TRUE)


def _scaled(call: Call, loss: Value) -> Thing:
    before = call.path.known(loss, "@scaled")
    earlier = before.items if isinstance(before, Pack) else ()
    number = call.engine.identities.number("scaled", call.thing, loss, call.path.frame.iteration)
    made = call.engine.derive(Thing(number, since=call.path.frame.iteration), (loss,), call.path)
    call.path.learn(made, scaled=Pack((*earlier, call.thing)))
    if isinstance(loss, Thing):
        call.path.learn(loss, thrown=Const(call.span))
        if before is None:  # whoever scales a loss has one that is not
            call.path.learn(loss, scaled=Pack(()))
    call.emit(
        LossScaled(
            at=call.span,
            occasional=call.occasional,
            scaler=call.ref(call.thing),
            loss=Ref(("thrown", call.span), call.ref(loss, call.argument_node(0, "outputs")).text),
            result=Ref(("scaled", call.span), ""),
            before=tuple(Ref(each.uid, "") for each in earlier if isinstance(each, Thing))
            if isinstance(loss, Thing)
            and call.engine.identities.description(loss.uid)[0] == "scaled"
            else (),
        )
    )
    return made


def _optimizer(call: Call) -> Value | None:
    """The optimizer argument; what is None here was set where nobody looked, one for each spelling."""
    optimizer = call.picked(0, "optimizer")
    if optimizer is None or isinstance(optimizer, Thing):
        return optimizer
    if optimizer != NONE:  # an attribute of who knows what: it is another one of another owner
        return call.engine.term("optimizer of", call.thing, optimizer)
    node = call.argument_node(0, "optimizer")
    return call.engine.term("optimizer of", call.thing, Const(ast.unparse(node) if node else ""))


@attributes("_per_optimizer_states")
def inner_state(engine: Calls, scaler: Thing, path: Path) -> Value:
    """Code that asks a scaler's private books what was done knows what it does."""
    start = Position(1, 1)
    engine.lose((scaler,), path, Span(path.frame.module.filename, start, start))
    return engine.term("state of", scaler)


@method("GradScaler", "unscale_")
def unscale(call: Call) -> Value:
    """`scaler.unscale_(optimizer)`."""
    optimizer = _optimizer(call)
    if isinstance(optimizer, Thing):
        operation, *operands = call.engine.identities.description(optimizer.uid)
        if operation == "." and isinstance(operands[0], Thing):
            call.path.learn(operands[0], inner=optimizer)
    guard = guard_after(call.path.frame.module, call.node)
    if not _off(call):
        if guard is not None:
            call.engine.guarding.add(guard.test)
            call.path.heap.forget(GUARDED)
        call.emit(
            Unscaled(
                at=call.span,
                occasional=call.occasional,
                scaler=call.ref(call.thing),
                optimizer=call.ref(optimizer, call.argument_node(0, "optimizer")),
                definite=_definite(call, optimizer),
                guard=None if guard is None else guard.span,
                finite=guard is not None and guard.finite,
                beside=guard is not None and guard.beside,
                called_at=next(iter(call.places[1:]), None),
            )
        )
    return NONE


@method("GradScaler", "step")
def step(call: Call) -> Value:
    """`scaler.step(optimizer)`."""
    optimizer = _optimizer(call)
    if optimizer is not None and not _off(call):
        if isinstance(optimizer, Thing):
            call.path.learn(optimizer, scaler_stepped=Const(call.path.frame.iteration))
        call.emit(
            ScalerStep(
                at=call.span,
                occasional=call.occasional,
                scaler=call.ref(call.thing),
                optimizer=call.ref(optimizer, call.argument_node(0, "optimizer")),
                wraps=_inner(optimizer, call.path),
                definite=_definite(call, optimizer),
                counted=call.counted,
                closure=closure_of(call, optimizer),
                alone=_alone(call),
                edited=EDITED.search(call.path.frame.module.text) is not None,
            )
        )
    if optimizer is not None:
        stepped_inside(call, optimizer)
    return call.made()


def _alone(call: Call) -> frozenset[str]:
    """What nobody does to a scaler that is stepped for a caller out of sight.

    The scaler must be there for longer than this call, so that what is not done is never done.
    """
    path, identities = call.path, call.engine.identities
    if len(path.frames) < 2 or identities.description(path.frames[1].context)[0] != "entry":
        return frozenset()
    operation, *rest = identities.description(call.thing.uid)
    function = call.node.func
    if not isinstance(function, ast.Attribute):
        return frozenset()
    if operation == "made" and _within(rest[1], path.frames[1].context, identities):
        return frozenset()
    if _shared(call, function.value):
        return frozenset()
    holder = function.value
    name = holder.attr if isinstance(holder, ast.Attribute) else getattr(holder, "id", "")
    return (
        never_called(name, path.frame.module, call.engine.relevance.project)
        if name
        else frozenset()
    )


def _shared(call: Call, holder: ast.expr) -> bool:
    """Whether the function hands its scaler, or what holds it, to code out of sight, by a parameter."""
    while isinstance(holder, ast.Attribute):
        holder = holder.value
    frame = call.path.frame
    if not isinstance(holder, ast.Name) or frame.function is None:
        return False
    value = call.path.heap.get((frame.scopes[0], holder.id))
    if value is None:
        return False
    gone = handed(frame.function, {holder.id: value}, call.path, call.engine.identities)
    return value in gone or call.thing in gone


def _within(context: object, entry: int, identities: Identities) -> bool:
    """Whether an activation is that of the entry point, or of what it called, over by now or not."""
    while isinstance(context, int) and context != entry:
        operation, *rest = identities.description(context)
        context = rest[0] if operation == "in" else None
    return context == entry


def _definite(call: Call, value: Value | None) -> bool:
    """Whether a value is the one name of an object: made in view, or a parameter or attribute."""
    while isinstance(value, Thing):
        operation, *operands = call.engine.identities.description(value.uid)
        if operation != ".":
            if operation == "made":
                return value.kind == "Optimizer"
            return operation in ("parameter", "name", "global", "instance")
        value = operands[0] if isinstance(operands[0], Value) else None
    return False


def _inner(optimizer: Value, path: Path) -> tuple[Ref, ...]:
    """The optimizers that an optimizer holds as attributes, as far as they are seen."""
    inner = path.known(optimizer, "@inner")
    held = [inner] if inner is not None else []
    if isinstance(optimizer, Thing) and path.known(optimizer, "@class") is not None:
        stored = (value for name, value in path.heap.of(optimizer.uid) if name[0] != "@")
        held += [v for v in stored if isinstance(v, Thing) and v.kind == "Optimizer"]
    return tuple(Ref(value.uid, "") for value in held if isinstance(value, Thing))


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
                counted=call.counted,
                to_given_scale=given is not None and given != NONE,
                further=_further(call),
            )
        )
    return NONE


def _further(call: Call) -> bool | None:
    met = call.path.heap.get(GUARDED)
    return met == TRUE if met in (TRUE, FALSE) else None


@method("GradScaler", "get_scale")
def get_scale(call: Call) -> Value:
    """`scaler.get_scale()`."""
    made = call.made()
    return call.path.learn(made, scale_of=call.thing, scaled=Pack(()))


@method("", "get_scale")
def get_scale_of_library(call: Call) -> Value:
    """`trainer.precision_plugin.scaler.get_scale()`: what has this method is somebody's scaler."""
    return call.path.learn(call.derived(), scale_of=UNKNOWN, scaled=Pack(()))


@method("GradScaler", "is_enabled")
def is_enabled(call: Call) -> Value:
    """`scaler.is_enabled()`."""
    return FALSE if _off(call) else TRUE


@method("GradScaler", "load_state_dict")
def load_state_dict(call: Call) -> Value:
    """`scaler.load_state_dict(state)`."""
    if not _off(call):
        call.emit(
            ScalerLoaded(at=call.span, occasional=call.occasional, scaler=call.ref(call.thing))
        )
    return call.made()


@method("GradScaler", "set_growth_interval", "to")
def untouched(call: Call) -> Value:
    """Methods that change nothing a protocol watches."""
    return call.made()


# autocast


@function(*LEGACY_AUTOCASTS)
def legacy_autocast(call: Call) -> Value:
    """`torch.cuda.amp.autocast(enabled=True, dtype=torch.float16, cache_enabled=True)`."""
    device = LEGACY_AUTOCASTS[call.name]
    made = _region(call, Const(device), call.argument(1, "dtype"), call.argument(0, "enabled"))
    return call.path.learn(made, cache=call.argument(2, "cache_enabled"))


@function(*AUTOCASTS)
def autocast(call: Call) -> Value:
    """`torch.autocast(device_type, dtype=None, enabled=True, cache_enabled=None)`."""
    device = call.argument(0, "device_type")
    made = _region(call, device, call.argument(1, "dtype"), call.argument(2, "enabled"))
    return call.path.learn(made, cache=call.argument(3, "cache_enabled"))


def _region(call: Call, device: Value | None, dtype: Value | None, enabled: Value | None) -> Thing:
    made = call.made("autocast")
    call.engine.places.setdefault(made.uid, call.span)
    device = device_type(device, call.path)
    default = decided(device, _default)
    dtype = decided(dtype or NONE, lambda given: default if given == NONE else _named(given))
    if not autocast_casts(call.path):
        dtype = Const(None)
    return call.path.learn(made, device=device, dtype=dtype, enabled=enabled or TRUE)


def _default(device: Value) -> Value:
    return Const(DEFAULT_DTYPE.get(str(device.value)) if isinstance(device, Const) else None)


def _named(dtype: Value) -> Value:
    return Const(DTYPES.get(dtype.name)) if isinstance(dtype, External) else NONE

"""timm's NativeScaler: a GradScaler that is called, and takes the whole step by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import Backward, LossScaled, Ref, ScalerMade, ScalerStep, ScalerUpdate, Unscaled
from mpaudit.source.engine.registry import attributes, called, function
from mpaudit.source.engine.values import NONE, TRUE, Const, Thing, Value
from mpaudit.source.library.torch.backward import around
from mpaudit.source.library.torch.region import backward_inside, stepped_inside

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call


@function("timm.utils.NativeScaler", "timm.utils.cuda.NativeScaler")
def make(call: Call) -> Value:
    """`NativeScaler()`: there is no switch to turn it off."""
    made = call.made("GradScaler")
    call.emit(ScalerMade(at=call.span, occasional=call.occasional, scaler=Ref(made.uid, "")))
    return call.path.learn(made, steps=TRUE)


@attributes("_scaler")
def inner(_: Calls, scaler: Thing, path: Path) -> Value | None:
    """`loss_scaler._scaler` is the GradScaler in it; both are one here."""
    return scaler if path.known(scaler, "@steps") is not None else None


@called("GradScaler")
def step(call: Call) -> Value | None:
    """`loss_scaler(loss, optimizer, clip_grad=1.0, parameters=..., create_graph=False, need_update=True)`."""
    path, scaler = call.path, call.ref(call.thing, call.node.func)
    loss, optimizer = call.picked(0, "loss"), call.picked(1, "optimizer")
    if path.known(call.thing, "@steps") is None or loss is None or optimizer is None:
        return None
    updates = call.argument(6, "need_update")
    whole = updates is None or call.engine.logic.decide(updates, path)
    _scaled(call, scaler, loss)
    if whole:
        _applied(call, scaler, optimizer)
    return NONE


def _scaled(call: Call, scaler: Ref, loss: Value) -> None:
    path, engine = call.path, call.engine
    given = Ref(("thrown", call.span), call.ref(loss, call.argument_node(0, "loss")).text)
    call.emit(
        LossScaled(
            at=call.span,
            occasional=call.occasional,
            scaler=scaler,
            loss=given,
            result=Ref(("scaled", call.span), ""),
        )
    )
    graph = call.argument(5, "create_graph")
    call.emit(
        Backward(
            at=call.span,
            occasional=call.occasional,
            loss=given,
            scalers=(scaler,),
            made_in=engine.describe(path.known(loss, "@region"), path),
            inside=engine.describe(around(call), path) if graph in (None, Const(False)) else None,
        )
    )
    if isinstance(loss, Thing):
        backward_inside(call, loss)


def _applied(call: Call, scaler: Ref, optimizer: Value) -> None:
    held = call.ref(optimizer, call.argument_node(1, "optimizer"))
    at, occasional = call.span, call.occasional
    if call.argument(2, "clip_grad") not in (None, NONE):
        call.emit(Unscaled(at=at, occasional=occasional, scaler=scaler, optimizer=held))
    call.emit(
        ScalerStep(
            at=at, occasional=occasional, scaler=scaler, optimizer=held, counted=call.counted
        )
    )
    stepped_inside(call, optimizer)
    call.emit(ScalerUpdate(at=at, occasional=occasional, scaler=scaler, counted=call.counted))

"""Gradients that `torch.autograd.grad` takes of a scaled loss, and what is computed from them.

They inherit from the scaled loss that they are scaled, and so does a penalty, unless it is divided by
the scale on its way into the loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import ScaledGradientTaken, ScaledPartScaled
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import TRUE, UNKNOWN, External, Pack, Thing, Value
from mpaudit.source.library.torch.gradient import GRAPH

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

PRODUCTS = frozenset(["mul", "div", "multiply", "divide", "true_divide", "where"])
IN_PLACE = frozenset(["mul_", "div_", "multiply_", "divide_", "copy_"])


def _computes(name: str) -> bool:
    grouped = name.startswith("torch._foreach_")
    return grouped or name == "torch.autograd.grad" or name.rpartition(".")[2] in PRODUCTS


@on_result(functions=_computes, methods=PRODUCTS | IN_PLACE | {"scale"})
def told(call: Call, function: Value, made: Value) -> None:
    """`torch.autograd.grad(...)`, `scaler.scale(loss)`, `gradient.mul_(inv_scale)`."""
    path = call.path
    if call.name.rpartition(".")[2] in PRODUCTS and isinstance(made, Thing):
        if path.known(made, "@scale_of") is not None:
            path.learn(made, scaled=UNKNOWN)
    if isinstance(function, External):
        if function.name == "torch.autograd.grad":
            _taken(call)
        elif function.name.startswith("torch._foreach_") and call.arguments:
            _unscaled(call.arguments[0], call)
    elif not isinstance(call.receiver, Thing):
        return
    elif call.name in IN_PLACE:
        if any(path.known(argument, "@scale_of") is not None for argument in call.arguments):
            _unscaled(call.receiver, call)
    elif call.name == "scale" and call.receiver.kind == "GradScaler":
        loss = call.argument(0, "outputs")
        if path.known(call.receiver, "@off") is None and isinstance(loss, Thing):
            direct = call.engine.identities.description(loss.uid)[:1] == ("scaled",)
            if call.receiver in _scalers(loss, path) and not direct:
                scaler = call.ref(call.receiver)
                call.emit(ScaledPartScaled(at=call.span, occasional=call.occasional, scaler=scaler))


@on_result(functions=(), methods=("unscale_", "zero_grad", "step", "backward"))
def graph_kept(call: Call, _: Value, __: Value) -> None:
    """`scaler.scale(loss).backward(create_graph=True)`: a penalty can be computed from each `.grad`."""
    if call.name in ("unscale_", "zero_grad", "step"):
        call.path.heap.forget(GRAPH)
    elif call.name == "backward" and isinstance(call.receiver, Thing) and not call.receiver.kind:
        call.path.heap.forget(GRAPH)
        scalers = _scalers(call.receiver, call.path)
        if len(scalers) == 1 and call.picked(9, "create_graph") == TRUE:
            scaler = call.ref(scalers[0], call.node)
            call.emit(ScaledGradientTaken(at=call.span, occasional=call.occasional, scaler=scaler))
            call.path.heap[GRAPH] = scalers[0]


def _taken(call: Call) -> None:
    outputs = call.argument(0, "outputs")
    if outputs is None:
        return
    for scaler in _scalers(outputs, call.path):
        call.path.learn(scaler, differentiated=TRUE)  # what is scaled may be no loss from here on
    if call.argument(4, "create_graph") != TRUE:
        return
    if any(frame.module.mentions("._scale") for frame in call.path.frames):
        return  # the scale is read behind the scaler's back: nobody can tell what is divided by it
    for scaler in _scalers(outputs, call.path):
        call.emit(
            ScaledGradientTaken(
                at=call.span, occasional=call.occasional, scaler=call.ref(scaler, call.node)
            )
        )


def _scalers(value: Value, path: Path) -> tuple[Thing, ...]:
    """The scalers that a value is multiplied by for certain."""
    items = value.items if isinstance(value, Pack) else (value,)
    found = [path.known(item, "@scaled") for item in items]
    every = [s for each in found if isinstance(each, Pack) for s in each.items]
    return tuple(s for s in dict.fromkeys(every) if isinstance(s, Thing))


def _unscaled(value: Value, call: Call) -> None:
    """Somebody divides gradients in place: whether those are scaled any more is not known."""
    while isinstance(value, Thing):
        call.path.learn(value, scaled=UNKNOWN)
        operation, *operands = call.engine.identities.description(value.uid)
        following = operands[0] if operation in ("each", "item", "[]") and operands else None
        value = following if isinstance(following, Thing) else UNKNOWN

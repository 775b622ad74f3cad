"""The gradients of parameters: reading, clipping and editing them by hand."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import GradientsClipped, Ref, Unscaled
from mpaudit.source.library.registry import attributes, method, on_augmented
from mpaudit.source.values import NONE, TRUE, Pack, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.call import Calls
    from mpaudit.source.path import Path
    from mpaudit.source.request import Call


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


def told_apart(optimizers: tuple[Ref, ...] | None, path: Path) -> bool:
    """Whether no two of these optimizers hold parameters of the same model."""
    seen: set[Value] = set()
    known = path.heap.get((0, "@optimizers"))
    for optimizer in known.items if isinstance(known, Pack) else ():
        if not isinstance(optimizer, Thing) or Ref(optimizer.uid, "") not in (optimizers or ()):
            continue
        held = path.known(optimizer, "@owners")
        owners = set(held.items) if isinstance(held, Pack) else set()
        if owners & seen:
            return False
        seen |= owners
    return True

"""The gradients of parameters: reading, clipping and editing them by hand."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import GradientsClipped, Ref, Unscaled
from mpaudit.source.engine.registry import attributes, function, method, on_augmented
from mpaudit.source.engine.values import NONE, TRUE, Pack, Thing, Value
from mpaudit.source.text.walk import walk

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

GRAPH = (0, "@scaled_graph")
"""The scaler of the last backward pass, if it kept its graph and the gradients are scaled still."""


@attributes("grad")
def gradient(engine: Calls, thing: Thing, path: Path) -> Value | None:
    """`parameter.grad`."""
    if path.known(thing, "@owners") is None or thing.kind:
        return None
    scaler = path.heap.get(GRAPH)
    origin = (thing,) if scaler is None else (thing, scaler)
    made = engine.derive(engine.term(".grad", *origin), (thing,), path)
    if scaler is not None:
        path.learn(made, scaled=Pack((scaler,)))
    return path.learn(made, gradient=TRUE)


@attributes("data")
def gradient_data(_: Calls, thing: Thing, path: Path) -> Value | None:
    """`parameter.grad.data` is the gradient."""
    return thing if path.known(thing, "@gradient") is not None else None


@method("", "parameters", "named_parameters")
def parameters(call: Call) -> Value | None:
    """`model.parameters()` of a model nobody has seen being made."""
    if not isinstance(call.receiver, Thing):
        return None
    made = call.path.learn(call.derived(call.receiver), scaled=Pack(()))
    return call.path.learn(made, owners=Pack((call.receiver,)))


@method("", "clamp_", "clip_")
def gradient_clamped(call: Call) -> Value | None:
    """`parameter.grad.clamp_(-1, 1)`."""
    if call.receiver is None or call.path.known(call.receiver, "@gradient") is None:
        return None
    _edited(call.engine, call.node, call.name, call.receiver, call.path)
    return call.receiver


@method("", "clamp", "clip")
def gradient_clamped_anew(call: Call) -> Value | None:
    """`parameter.grad = parameter.grad.clamp(-1, 1)`."""
    if call.receiver is not None and call.path.known(call.receiver, "@gradient") is not None:
        if _put_back(call):
            _edited(call.engine, call.node, call.name, call.receiver, call.path)
    return None


@function("torch.clamp", "torch.clip")
def gradient_clamped_by_function(call: Call) -> Value | None:
    """`parameter.grad = torch.clamp(parameter.grad, -1, 1)`."""
    gradient = call.argument(0, "input")
    if gradient is not None and call.path.known(gradient, "@gradient") is not None:
        if _put_back(call):
            _edited(call.engine, call.node, "clamp", gradient, call.path)
    return None


def _put_back(call: Call) -> bool:
    """Whether the result of a call becomes a gradient."""
    statement = call.path.frame.module.statement(call.node)
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return any("grad" in (n.attr for n in _attributes(target)) for target in targets)


def _attributes(target: ast.expr) -> list[ast.Attribute]:
    return [node for node in walk(target) if isinstance(node, ast.Attribute)]


@function("torch.randn_like", "torch.rand_like", "torch.randn", "torch.rand", "torch.normal")
def noise(call: Call) -> Value:
    """Numbers whose size has nothing to do with that of a gradient."""
    made = call.derived(*call.arguments)
    region = call.engine.region(call.path)
    return call.path.learn(made, noise=TRUE, scaled=Pack(()), region=region)


@method("", "add_")
def noise_added(call: Call) -> Value | None:
    """`parameter.grad.add_(torch.randn_like(parameter.grad) * sigma)`."""
    gradient, added = call.receiver, call.argument(0, "other")
    if gradient is None or call.path.known(gradient, "@gradient") is None:
        return None
    if _is_noise(added, call.engine, call.path):
        _edited(call.engine, call.node, "noise", gradient, call.path)
    return gradient


@on_augmented
def noise_added_up(
    engine: Calls, node: ast.AugAssign, left: Value, right: Value, path: Path
) -> None:
    """`parameter.grad += sigma * torch.randn_like(parameter.grad)`."""
    if isinstance(node.op, ast.Add) and path.known(left, "@gradient") is not None:
        if _is_noise(right, engine, path):
            _edited(engine, node, "noise", left, path)


def _is_noise(value: object, engine: Calls, path: Path) -> bool:
    """Whether a value is noise of a size of its own: not relative to a gradient, or to a scale."""
    if not isinstance(value, Thing) or path.known(value, "@scale_of") is not None:
        return False
    if path.known(value, "@noise") is not None:
        return True
    operation, *operands = engine.identities.description(value.uid)
    if operation not in ("Mult", "Div", "USub"):
        return False
    others = [each for each in operands if not _is_noise(each, engine, path)]
    return len(others) < len(operands) and all(
        isinstance(each, Value) and path.known(each, "@owners") is None for each in others
    )


def _edited(engine: Calls, node: ast.AST, how: str, gradient: Value, path: Path) -> None:
    engine.emit(
        GradientsClipped(
            at=path.frame.module.span(node),
            occasional=any(frame.occasional for frame in path.frames),
            how=how,
            optimizers=optimizers_of(gradient, path),
        ),
        path,
    )


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

"""What a training step is made of: losses as they come, closures that optimizers call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.source.engine.values import TRUE, Bound, Const, Function, Partial, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call


def closure_of(call: Call, optimizer: Value) -> str | None:
    """How a closure comes into `scaler.step(optimizer, ...)`, as `ScalerStep.closure` says it."""
    if "closure" in call.keywords:
        return "keyword"
    maker = call.path.known(optimizer, "@maker")
    if not isinstance(maker, Const) or "**" in call.keywords:
        return None
    if len(call.arguments) > 1:
        called = isinstance(call.arguments[1], (Function, Partial, Bound))
        return "positional" if called else None
    return "missing" if str(maker.value).endswith(".LBFGS") else None


def mark_mean(call: Call, loss: Thing, criterion: Value | None) -> Thing:
    """Note that a loss is the mean over its batch, as loss functions return it by default."""
    reduction = call.keywords.get("reduction")
    if criterion is not None and call.path.known(criterion, "@mean") is None:
        return loss
    if reduction in (None, Const("mean")) and len(call.arguments) == 2:
        call.path.learn(loss, mean=TRUE)
    return loss


def is_whole(loss: Value, call: Call) -> bool:
    """Whether a loss is the mean over its batch and was divided by nothing since."""
    return _whole(loss, call, call.path)


def _whole(loss: object, call: Call, path: Path) -> bool:
    if not isinstance(loss, Thing):
        return False
    operation, *operands = call.engine.identities.description(loss.uid)
    if operation == "scaled":
        return _whole(operands[1], call, path)
    if operation == "Add":
        return all(_whole(operand, call, path) for operand in operands)
    return path.known(loss, "@mean") is not None

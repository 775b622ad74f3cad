"""Counters and running sums of 16 bits, and moving averages of parameters of 16 bits."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import HalfAverageMoved
from mpaudit.source.engine.dtypes import HALF, Dtype, parameter_dtype, possible, reasons_of
from mpaudit.source.engine.registry import on_binary
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import TRUE, Const, External, Pack, Thing, Value
from mpaudit.source.library.half_sum import LARGEST_SHARE, is_assigned_back, share_of, tell_added
from mpaudit.source.library.python.number import number
from mpaudit.source.library.torch.tensor import certain

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

_SIZED = ("torch.zeros", "torch.ones", "torch.empty", "torch.full")
_GIVEN = ("torch.tensor", "torch.as_tensor", "torch.scalar_tensor")
_SAME = frozenset(["half", "bfloat16", "to", "cuda", "cpu"])
_MOVING = ("mul_", "lerp_", "copy_")


@on_result(functions=(*_GIVEN, *_SIZED), methods=(*_SAME, "add_", *_MOVING))
def called(call: Call, callee: Value, made: Value) -> None:
    """A call of a library is over: a number made, cast, or added to; an average moved."""
    if isinstance(callee, External):
        if isinstance(made, Thing) and _is_one_number(call, callee.name):
            call.path.learn(made, one=TRUE)
        return
    receiver = call.receiver
    if not isinstance(receiver, Thing) or receiver.kind:
        return
    if call.name in _SAME and isinstance(made, Thing):
        call.path.learn(made, one=call.path.known(receiver, "@one"))
    elif call.name == "add_" and isinstance(call.node.func, ast.Attribute) and call.arguments:
        pair = (receiver, call.argument(0), call.node.func.value)
        _added(call.engine, call.path, call.node, *pair)
        _moved(call, receiver, made)
    elif call.name in _MOVING and call.arguments:
        _moved(call, receiver, made)


def _is_one_number(call: Call, name: str) -> bool:
    given = call.arguments[0] if call.arguments else call.keywords.get("size")
    if name in _GIVEN:
        return isinstance(given, Const) and isinstance(given.value, (int, float))
    if name not in _SIZED or (name != "torch.full" and len(call.arguments) != 1):
        return False
    if isinstance(given, Thing) and given.kind == "list":
        given = call.path.known(given, "@items")
    return given == Const(1) or (
        isinstance(given, Pack) and all(each == Const(1) for each in given.items)
    )


@on_binary
def operated(
    engine: Calls, node: ast.BinOp | ast.AugAssign, left: Value, right: Value, path: Path
) -> None:
    """`total += loss`, `total = total + loss`."""
    if not isinstance(node.op, ast.Add) or not isinstance(left, Thing):
        return
    if isinstance(node, ast.AugAssign):
        root = _added(engine, path, node, left, right, node.target)
    else:
        if not is_assigned_back(node, path):
            return
        if not _is_number(right, engine) and not _is_half(right, engine, path):
            return
        root = _added(engine, path, node, left, right, node.left)
    if root is not None:
        made = engine.term("Add", left, right)
        path.learn(made, running=root)


def _is_number(value: Value, engine: Calls) -> bool:
    return number(value, engine.identities) is not None


def _is_half(value: Value, engine: Calls, path: Path) -> bool:
    if not possible(value, path) & set(HALF):
        return False
    known = certain(engine, value, path)
    return known is not None and known.name in HALF


def _added(
    engine: Calls, path: Path, at: ast.AST, left: Thing, right: Value | None, target: ast.expr
) -> Value | None:
    """Tell of an addition to a number in 16 bits. Returns what stands for the number."""
    root = path.known(left, "@running")
    if root is None:
        if path.known(left, "@one") is None or not possible(left, path) & set(HALF):
            return None
        known = certain(engine, left, path)
        if known is None or known.name not in HALF:
            return None
        root = Pack((left, Const(known)))
    tell_added(engine, path, root, at, right, target, because=lambda _, dtype: reasons_of(dtype))
    return root


def _moved(call: Call, receiver: Thing, made: Value) -> None:
    """`e.mul_(d).add_(p, alpha=1 - d)`, `e.lerp_(p, 1 - d)`, `e.copy_(d * e + (1 - d) * p)`."""
    path, identities = call.path, call.engine.identities
    if call.name == "mul_":
        decay = number(call.argument(0), identities)
        known = _parameters(receiver, path)
        if decay is not None and known is not None and 1 - LARGEST_SHARE < decay < 1:
            for value in (made, receiver):
                if isinstance(value, Thing):
                    path.learn(value, decayed=Const(known))
        return
    known, share = _parameters(receiver, path), None
    if call.name == "lerp_":
        share = number(call.argument(1, "weight"), identities)
    elif call.name == "copy_":
        share = share_of(call.argument(0), receiver, call)
    else:
        held = path.known(receiver, "@decayed")
        known = held.value if isinstance(held, Const) and isinstance(held.value, Dtype) else None
        share = number(call.argument(99, "alpha"), identities)
    if known is None or share is None or not 0 < share < LARGEST_SHARE:
        return
    call.emit(
        HalfAverageMoved(
            at=call.span,
            occasional=call.occasional,
            tensor=call.ref(receiver),
            dtype=known.name,
            share=share,
            cast=known.at,
            because=reasons_of(known),
        )
    )


def _parameters(value: Thing, path: Path) -> Dtype | None:
    """The 16 bits of a parameter of a model that the script has cast; None for anything else."""
    owners = path.known(value, "@owners")
    if not isinstance(owners, Pack) or len(owners.items) != 1:
        return None
    known = parameter_dtype(owners.items[0], path)
    return known if known is not None and known.name in HALF else None

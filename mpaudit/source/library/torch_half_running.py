"""Counters and running sums of 16 bits, and moving averages of parameters of 16 bits."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import HalfAdded, HalfAverageMoved, Ref
from mpaudit.source.dtypes import HALF, Dtype, parameter_dtype, possible, reasons_of
from mpaudit.source.library.python_number import number
from mpaudit.source.library.registry import on_binary, on_result
from mpaudit.source.library.torch_tensor import certain
from mpaudit.source.values import NOWHERE, TRUE, Const, External, Pack, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.call import Calls
    from mpaudit.source.path import Path
    from mpaudit.source.request import Call

_SIZED = ("torch.zeros", "torch.ones", "torch.empty", "torch.full")
_GIVEN = ("torch.tensor", "torch.as_tensor", "torch.scalar_tensor")
_SAME = frozenset(["half", "bfloat16", "to", "cuda", "cpu"])
_PARTS = frozenset(
    ["items", "values", "keys", "children", "modules", "parameters", "named_parameters"]
)
LARGEST_SHARE = 0.01
"""A moving average that takes more than this of the new parameters, moves."""
SHORT = 256
"""A sum of as many terms or fewer is a short one."""


@on_result
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
    elif call.name in ("mul_", "lerp_", "copy_") and call.arguments:
        _moved(call, receiver, made)


def _is_one_number(call: Call, name: str) -> bool:
    given = call.arguments[0] if call.arguments else call.keywords.get("size")
    if name in _GIVEN:
        return isinstance(given, Const) and isinstance(given.value, int | float)
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
        module = path.frame.module
        above = module.parents.get(node)
        if not isinstance(above, ast.Assign) or len(above.targets) != 1:
            return
        same = module.source(above.targets[0]) == module.source(node.left)
        if not same or not (_is_number(right, engine) or _is_half(right, engine, path)):
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
    if not isinstance(root, Pack) or is_share(right, engine) or is_short(at, root.items[0], path):
        return root
    number_, held = root.items
    if isinstance(number_, Thing) and isinstance(held, Const) and isinstance(held.value, Dtype):
        module = path.frame.module
        engine.emit(
            HalfAdded(
                at=module.span(at),
                occasional=any(frame.occasional for frame in path.frames),
                tensor=Ref(number_.uid, " ".join(module.source(target).split())),
                root=number_.uid,
                dtype=held.value.name,
                because=reasons_of(held.value),
            ),
            path,
        )
    return root


def is_share(value: Value | None, engine: Calls) -> bool:
    """Whether what is added was divided first: `loss / steps`."""
    if not isinstance(value, Thing):
        return False
    return (engine.identities.description(value.uid) or ("",))[0] == "Div"


def is_short(at: ast.AST, root: Value, path: Path) -> bool:
    """Whether the innermost loop around an addition goes through a few things only."""
    module = path.frame.module
    node = module.parents.get(at)
    while node is not None and not isinstance(node, ast.For | ast.AsyncFor | ast.While):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return False
        node = module.parents.get(node)
    if not isinstance(node, ast.For | ast.AsyncFor):
        return False
    over = node.iter
    if isinstance(over, ast.Tuple | ast.List | ast.Set | ast.Dict):
        return True
    if not isinstance(over, ast.Call):
        return False
    if isinstance(over.func, ast.Attribute):
        return over.func.attr in _PARTS
    if not isinstance(over.func, ast.Name) or over.func.id != "range":
        return False
    last = over.args[min(1, len(over.args) - 1)] if over.args else None
    if isinstance(last, ast.Constant) and isinstance(last.value, int):
        return last.value <= SHORT
    return isinstance(root, Thing) and root.since != NOWHERE  # micro batches of a step


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


def share_of(value: Value | None, receiver: Thing, call: Call) -> float | None:
    """The part that `d * e + (1 - d) * p` takes of p."""
    identities = call.engine.identities
    if not isinstance(value, Thing):
        return None
    operation, *terms = identities.description(value.uid) or ("",)
    if operation != "Add":
        return None
    for term in terms:
        if isinstance(term, Thing):
            name, *factors = identities.description(term.uid) or ("",)
            if name == "Mult" and receiver in factors:
                other = factors[0] if factors[1] == receiver else factors[1]
                decay = number(other if isinstance(other, Value) else None, identities)
                return None if decay is None else 1 - decay
    return None

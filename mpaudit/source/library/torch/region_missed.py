"""What is computed by models outside of every autocast region, and becomes a loss beside one.

The hidden fact `@outside` of a tensor: the call of the model that it comes from, where that ran in no
region; UNKNOWN where some of what it was computed from may have run in one, or nobody knows.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import RegionMissed
from mpaudit.finding import Span
from mpaudit.source.engine.facts import parts
from mpaudit.source.engine.registry import function, harmless, method, on_operation
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.site import unrecorded
from mpaudit.source.engine.values import NONE, UNKNOWN, Const, External, Thing, Value
from mpaudit.source.library.torch.layers import PRODUCTS, multiplies
from mpaudit.source.library.torch.model_call import model_call
from mpaudit.source.text.walk import walk

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

_SWITCHED = (0, "@autocast_switched")
_SEEN = (0, "@outside_seen")
_PREPARING = (0, "@preparing_region")
PREPARING = frozenset(["zero_grad", "to", "cuda", "float", "long", "train"])
"""Methods that prepare a step: a region that holds nothing else is around nothing."""
CUT = frozenset(["detach", "item", "numpy", "tolist"])


@function("torch.set_autocast_enabled", "torch.set_autocast_cpu_enabled")
def switched(call: Call) -> Value:
    """`torch.set_autocast_enabled(True)`: a region without a `with`."""
    call.path.heap[_SWITCHED] = UNKNOWN
    return NONE


@method("Loss", "to", "cuda", "cpu", "float", "train", "eval")
def moved_loss(call: Call) -> Value:
    """`nn.CrossEntropyLoss().to(device)`."""
    return call.thing


@on_result()
def called(call: Call, callee: Value, made: Value) -> None:
    """A call is over: where did it run, and on what?"""
    path = call.path
    if path.regions and call.name in PREPARING:
        _prepared(call)
    if isinstance(callee, Thing) and callee.kind == "Module" and isinstance(made, Thing):
        _layer(call, callee, made)
        return
    if _SEEN not in path.heap:
        return
    if call.name == "backward":
        _propagated(call)
    elif isinstance(made, Thing) and call.name not in CUT:
        given = _given(_inputs(call), path)
        if given is not None:
            own = call.receiver is not None and _given((call.receiver,), path) is not None
            known = given if _understood(call, callee, own) else UNKNOWN
            _pass_on(call.engine, made, known, _inputs(call), path)


@on_operation
def operated(
    engine: Calls, operation: str, operands: tuple[Value, ...], made: Thing, path: Path
) -> None:
    """An operator between tensors; a product in a region is a part of the model."""
    if _SEEN in path.heap:
        given = _given(operands, path)
        if given is not None:
            lowered = operation == "MatMult" and path.regions
            _pass_on(engine, made, UNKNOWN if lowered else given, operands, path)


def _pass_on(
    engine: Calls, made: Thing, known: Value | None, inputs: tuple[Value, ...], path: Path
) -> None:
    """Note what is known of a result, and the region it, or what it is made of, was computed in."""
    region = engine.region(path)
    for value in inputs:
        for part in parts(value, path):
            region = region or path.known(part, "@beside")  # type: ignore[assignment]
    path.learn(made, outside=known, beside=region)


def _inputs(call: Call) -> tuple[Value, ...]:
    own = () if call.receiver is None else (call.receiver,)
    return (*own, *call.arguments, *call.keywords.values())


def _layer(call: Call, layer: Thing, made: Thing) -> None:
    """`model(x)`, or a layer in the `forward` of one."""
    path = call.path
    works = multiplies(layer, call.engine, path)
    given = _given(_inputs(call), path)
    if any(region.kind == "autocast" for region in path.regions):
        if works is not False:
            path.heap[_SEEN] = UNKNOWN
            path.learn(made, outside=UNKNOWN)
            return
    elif works and given is None:
        given = _record(call, layer)
    if given is not None:
        _pass_on(call.engine, made, given, _inputs(call), path)


def _record(call: Call, layer: Thing) -> Value | None:
    """Where the model is called that the layer is a part of; None where no region is missed there."""
    path = call.path
    if _SWITCHED in path.heap or (layer.uid, "forward") in path.heap:
        return None
    if path.known(layer, "@param_dtype") is not None:
        return None
    if unrecorded(call.sites):
        return None
    path.heap[_SEEN] = UNKNOWN
    return Const(model_call(call))


def _given(values: tuple[Value, ...], path: Path) -> Value | None:
    """What is known of all the tensors that something is computed from."""
    found: Value | None = None
    for value in values:
        for part in parts(value, path):
            found = _both(found, path.known(part, "@outside"))
    return found


def _both(one: Value | None, two: Value | None) -> Value | None:
    if one is None or two is None:
        return one or two
    return one if isinstance(two, Const) and two != UNKNOWN else UNKNOWN


def _understood(call: Call, callee: Value, own: bool) -> bool:
    """Whether a call surely runs no part of a model in a region."""
    name = call.name.rpartition(".")[2]
    if name in PRODUCTS and call.path.regions:
        return False
    if isinstance(callee, External):
        return harmless(callee.name)
    if isinstance(callee, Thing) and callee.kind == "Loss":
        return True
    return own or (isinstance(call.receiver, Thing) and call.receiver.kind == "GradScaler")


def _prepared(call: Call) -> None:
    """Note a region that holds nothing but what prepares a step."""
    node: ast.AST | None = call.node
    while node is not None and not isinstance(node, ast.With):
        node = call.path.frame.module.parents.get(node)
    region = call.path.regions[-1]
    if node is None or region.kind != "autocast":
        return
    calls = [part for each in node.body for part in walk(each) if isinstance(part, ast.Call)]
    if all(isinstance(c.func, ast.Attribute) and c.func.attr in PREPARING for c in calls):
        call.path.heap[_PREPARING] = region


def _propagated(call: Call) -> None:
    """`loss.backward()`."""
    path, engine = call.path, call.engine
    receiver = call.receiver
    record = path.known(receiver, "@outside") if receiver is not None else None
    if receiver is None or not isinstance(record, Const) or not isinstance(record.value, tuple):
        return
    region, holds = path.known(receiver, "@beside"), "loss"
    if region is None:
        region, holds = path.heap.get(_PREPARING), "preparation"
        entered = path.known(region, "@entered") if region is not None else None
        if not isinstance(entered, Thing) or entered.since != path.frame.iteration:
            return
    described = engine.describe(region, path)
    at, model = record.value
    lent = path.known(region or NONE, "@lent") is not None  # prepared models have their own
    if described is not None and not lent and isinstance(at, Span):
        call.emit(
            RegionMissed(
                at=call.span,
                occasional=call.occasional,
                called=at,
                model=str(model),
                region=described,
                holds=holds,
            )
        )

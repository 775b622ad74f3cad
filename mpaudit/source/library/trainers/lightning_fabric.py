"""Lightning Fabric: what it sets up, runs backward, unscales and steps."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import GradientsZeroed, OwnedBackward, OwnedStep, OwnedUnscaled, Ref
from mpaudit.source.engine.registry import function, method
from mpaudit.source.engine.values import NONE, Pack, Thing, Value
from mpaudit.source.library.trainers.lightning_names import (
    MIXED,
    PRECISIONS,
    because,
    chosen,
    learn_precision,
)
from mpaudit.source.library.trainers.lightning_refusal import (
    clip_refused_by_fabric,
    refused_by_fabric,
    twice_chosen,
)
from mpaudit.source.library.trainers.owned import in_view
from mpaudit.source.library.trainers.region import backward_in

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

DEFAULT = PRECISIONS["32-true"]
AUTOCAST = ("float16", "bfloat16")
"""Precisions whose plugin runs backward itself; in the others `loss.backward()` does no harm."""


@function("lightning.Fabric", "lightning.fabric.Fabric", "lightning_fabric.Fabric")
@function("lightning.fabric.fabric.Fabric", "lightning_fabric.fabric.Fabric")
def make(call: Call) -> Value:
    """`Fabric(precision="16-mixed")`."""
    twice_chosen(call)
    return learn_precision(call, call.made("Fabric"), DEFAULT)


@method("Fabric", "setup", "setup_module", "setup_optimizers")
def setup(call: Call) -> Value | None:
    """`model, optimizer = fabric.setup(model, optimizer)`: wrappers, in the order of what was given."""
    given = list(call.arguments)
    if not given or any(isinstance(node, ast.Starred) for node in call.node.args):
        return None
    first = None if call.name == "setup_optimizers" else given.pop(0)
    made = [] if first is None else [_wrapped(call, "FabricModule", first)]
    made += [_wrapped(call, "FabricOptimizer", each) for each in given]
    in_view(call, call.thing)
    return made[0] if len(made) == 1 else Pack(tuple(made))


def _wrapped(call: Call, kind: str, value: Value) -> Thing:
    fabric, path = call.thing, call.path
    number = call.engine.identities.number("set up", fabric, value)
    made = Thing(number, kind, value.since if isinstance(value, Thing) else path.frame.iteration)
    path.learn(made, owner=fabric, owners=path.known(value, "@owners"))
    return path.learn(made, maker=path.known(value, "@maker"), fused=path.known(value, "@fused"))


@method("Fabric", "backward")
def backward(call: Call) -> Value:
    """`fabric.backward(loss)`."""
    known = chosen(call, call.thing)
    call.emit(
        OwnedBackward(
            at=call.span,
            occasional=call.occasional,
            owner=call.ref(call.thing),
            scaled=None if known is None else known == MIXED.value,
            inside=backward_in(call),
            because=because(call.engine, call.thing),
        )
    )
    return NONE


@method("Fabric", "clip_gradients")
def clip_gradients(call: Call) -> Value:
    """`fabric.clip_gradients(model, optimizer, max_norm=1.0)` unscales first."""
    clip_refused_by_fabric(call, call.thing, chosen(call, call.thing))
    call.emit(OwnedUnscaled(at=call.span, occasional=call.occasional, owner=call.ref(call.thing)))
    return call.made()


@method("Fabric", "print", "log", "log_dict", "call", "barrier", "launch", "seed_everything")
@method("Fabric", "all_reduce", "all_gather", "broadcast", "save", "load")
@method("Fabric", "no_backward_sync", "init_module", "setup_dataloaders", "to_device")
def untouched(call: Call) -> Value:
    """Methods that leave gradients alone."""
    return call.derived(*call.arguments)


@method("FabricOptimizer", "step")
def step(call: Call) -> Value | None:
    """`optimizer.step()` goes through the Fabric's scaler."""
    fabric = call.path.known(call.thing, "@owner")
    if not isinstance(fabric, Thing):
        return None
    call.callback(0, "closure")
    known = chosen(call, fabric)
    refused_by_fabric(call, fabric, call.thing, known)
    call.emit(
        OwnedStep(
            at=call.span,
            occasional=call.occasional,
            owner=Ref(fabric.uid, ""),
            optimizer=call.ref(call.thing),
            library="Fabric",
            required=None if known is None else known in AUTOCAST,
            because=because(call.engine, fabric),
        )
    )
    return NONE


@method("FabricOptimizer", "zero_grad")
def zero_grad(call: Call) -> Value:
    """`optimizer.zero_grad()`."""
    call.emit(
        GradientsZeroed(
            at=call.span,
            occasional=call.occasional,
            counted=call.counted,
            optimizer=call.ref(call.thing),
        )
    )
    return NONE

"""Autocast regions that a script asks its library for: `accelerator.autocast()`, `fabric.autocast()`.

They do nothing where the library trains in full precision. What is computed in them is not known: a
model that the library has prepared gives float32 out of half, in them and outside of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import Region
from mpaudit.source.engine.registry import method
from mpaudit.source.engine.values import FALSE, NONE, TRUE, UNKNOWN, Const, External, Thing, Value
from mpaudit.source.library.torch.backward import around
from mpaudit.source.library.torch.device import decided
from mpaudit.source.library.trainers.accelerate import is_foreign

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

_OFF = ("no", "float32", "half")
"""Precisions of Accelerate and of Fabric, as they are noted, that know no autocast."""


@method("Accelerator", "autocast")
def of_accelerator(call: Call) -> Value | None:
    """`with accelerator.autocast():`; a handler may say anything, and so may another engine."""
    handler = call.argument(0, "autocast_handler")
    if is_foreign(call.thing, call.path) or handler not in (None, NONE):
        return call.made("context")
    path = call.path
    switch = path.heap.get((call.thing.uid, "native_amp"))  # the first Accelerates have it set
    return _region(call, switch or _switch(call))


@method("Fabric", "autocast")
def of_fabric(call: Call) -> Value:
    """`with fabric.autocast():`."""
    return _region(call, _switch(call))


def _switch(call: Call) -> Value:
    """Whether the library casts; UNKNOWN where a launcher decides."""
    precision = call.path.known(call.thing, "@precision") or UNKNOWN
    return decided(precision, lambda one: _on(one, call))


def _region(call: Call, enabled: Value) -> Thing:
    made = call.made("autocast")
    call.engine.places.setdefault(made.uid, call.span)
    return call.path.learn(made, lent=call.thing, enabled=enabled)


def _on(precision: Value, call: Call) -> Value:
    if isinstance(precision, Thing):
        return call.engine.term("not", call.engine.term("==", precision, Const("no")))
    if isinstance(precision, External):
        precision = Const(precision.name.rpartition(".")[2].lower())
    if not isinstance(precision, Const) or precision in (NONE, UNKNOWN):
        return UNKNOWN
    return FALSE if str(precision.value) in _OFF else TRUE


def backward_in(call: Call) -> Region | None:
    """The region that `accelerator.backward(loss)` or `fabric.backward(loss)` runs in."""
    if call.keywords.get("create_graph") is not None:
        return None
    return call.engine.describe(around(call), call.path)

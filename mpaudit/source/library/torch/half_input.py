"""Inputs that a script casts to float16 by hand before a model under autocast sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import InputHalved, Region
from mpaudit.finding import Span
from mpaudit.source.engine.dtypes import parameter_dtype
from mpaudit.source.engine.site import unrecorded
from mpaudit.source.engine.values import Const, Pack, Thing

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call


def half_inputs(call: Call, model: Thing, region: Region | None) -> None:
    """`model(x.half())` in a region, of a model that an optimizer of the script trains."""
    path = call.path
    if region is None or region.dtype is None or parameter_dtype(model, path) is not None:
        return
    for value in (*call.arguments, *call.keywords.values()):
        cast = path.known(value, "@halved")
        if not isinstance(cast, Const) or not isinstance(cast.value, Span):
            continue
        if not _trained(model, path) or unrecorded(call.sites[:1]):
            return
        call.emit(
            InputHalved(
                at=cast.value,
                occasional=call.occasional,
                model=call.ref(model, call.node.func),
                called=call.span,
                region=region,
            )
        )


def _trained(model: Thing, path: Path) -> bool:
    known = path.heap.get((0, "@optimizers"))
    for optimizer in known.items if isinstance(known, Pack) else ():
        held = path.known(optimizer, "@owners")
        if isinstance(held, Pack) and model in held.items:
            return True
    return False

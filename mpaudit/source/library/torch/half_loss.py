"""Losses that are computed in 16 bits, because they stand after the autocast region."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import HalfLoss
from mpaudit.source.engine.dtypes import HALF, Dtype, possible, reasons_of
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.site import unrecorded
from mpaudit.source.engine.values import Const, External, Thing, Value
from mpaudit.source.library.torch.dtypes import LOSSES, Kind, kind_of_layer
from mpaudit.source.library.torch.tensor import certain

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call


def _is_loss(name: str) -> bool:
    below, _, word = name.rpartition(".")
    return below == "torch.nn.functional" and word in LOSSES


@on_result(functions=_is_loss)
def loss_computed(call: Call, callee: Value, made: Value) -> None:
    """`criterion(output, target)` after `with autocast(): output = model(x)`."""
    name = _loss(call, callee)
    if not name or not isinstance(made, Thing) or not possible(made, call.path) & set(HALF):
        return
    output = call.argument(0, "input")
    if any(region.kind == "autocast" for region in call.path.regions) or unrecorded(call.sites[:1]):
        return
    known, result = certain(call.engine, output, call.path), certain(call.engine, made, call.path)
    if known is None or result is None or result.name not in HALF or not _from_region(known):
        return
    call.emit(
        HalfLoss(
            at=call.span,
            occasional=call.occasional,
            loss=name,
            output=call.ref(output, call.argument_node(0, "input")),
            dtype=known.name,
            because=reasons_of(known),
        )
    )


def _from_region(known: Dtype) -> bool:
    return known.how == "computed" and known.region is not None


def _loss(call: Call, callee: Value) -> str:
    if isinstance(callee, External):
        return callee.name.rpartition(".")[2]
    layer = call.path.known(callee, "@layer") if isinstance(callee, Thing) else None
    name = str(layer.value) if isinstance(layer, Const) else ""
    return name if kind_of_layer(name) is Kind.LOSS else ""

"""Inputs that a script casts to float16 by hand before a model under autocast sees them."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import InputHalved, Region
from mpaudit.finding import Span
from mpaudit.source.engine.dtypes import parameter_dtype
from mpaudit.source.engine.values import Const, Pack, Thing
from mpaudit.source.text.walk import walk

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Frame, Path
    from mpaudit.source.engine.request import Call

WITHOUT_GRADIENTS = ("no_grad", "inference_mode")


def half_inputs(call: Call, model: Thing, region: Region | None) -> None:
    """`model(x.half())` in a region, of a model that an optimizer of the script trains."""
    path = call.path
    if region is None or region.dtype is None or parameter_dtype(model, path) is not None:
        return
    for value in (*call.arguments, *call.keywords.values()):
        cast = path.known(value, "@halved")
        if not isinstance(cast, Const) or not isinstance(cast.value, Span):
            continue
        if not _trained(model, path) or without_gradients(call):
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


def without_gradients(call: Call) -> bool:
    """Whether the call stands in a `with torch.no_grad():`, or in a function decorated so."""
    return gradients_off(call.path.frame, call.node)


def gradients_off(frame: Frame, node: ast.AST | None) -> bool:
    """Whether what stands in an activation runs in a `with torch.no_grad():` of it, or decorated so."""
    function = frame.function.node if frame.function is not None else None
    decorators = (
        [] if function is None or isinstance(function, ast.Lambda) else function.decorator_list
    )
    around = list(decorators)
    while node is not None:
        if isinstance(node, ast.With):
            around += [item.context_expr for item in node.items]
        node = frame.module.parents.get(node)
    return any(
        isinstance(part, (ast.Attribute, ast.Name))
        and (part.attr if isinstance(part, ast.Attribute) else part.id) in WITHOUT_GRADIENTS
        for each in around
        for part in walk(each)
    )

"""Logarithms of what came out of a softmax or sigmoid in another function or in a model."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event.logarithm import LogTaken
from mpaudit.source.engine.dtypes import Dtype
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import Choice, Const, External, Thing, Value
from mpaudit.source.library.keras.values import read
from mpaudit.source.library.torch.activation import nature_of
from mpaudit.source.trait.logarithm import (
    LOGARITHMS,
    activation_in,
    only_greatest,
    read_otherwise,
)

if TYPE_CHECKING:
    from mpaudit.finding import Span
    from mpaudit.source.engine.request import Call


@on_result(functions=[name for name in LOGARITHMS if name.endswith(".log")], methods=("log",))
def logarithm(call: Call, callee: Value, _: Value) -> None:
    """`torch.log(model(x))`; what one function's text shows is another check's."""
    given, node = call.argument(0), call.argument_node(0)
    if not isinstance(callee, External):
        given, node = call.receiver, getattr(call.node.func, "value", None)
        if call.arguments:
            return
    module = call.path.frame.module
    if not isinstance(given, Thing) or node is None or _cared_for(given, call):
        return
    nature = nature_of(given, call.path) or read(given, call.path).got
    if nature not in ("softmax", "sigmoid") or activation_in(node, module) is not None:
        return
    if only_greatest(call.node, module):
        return
    shown = call.engine.places.get(given.uid)
    if shown is not None and not _here(shown, call) and not read_otherwise(node, module):
        call.emit(
            LogTaken(at=call.span, occasional=call.occasional, of=f"{nature}(x)", shown=shown)
        )


def _here(shown: Span, call: Call) -> bool:
    """Whether an activation stands in the function in progress: then its text has been judged."""
    frame = call.path.frame
    if shown.filename != frame.module.filename:
        return False
    if frame.function is not None:
        node = frame.function.node
        return node.lineno <= shown.start.row <= (node.end_lineno or node.lineno)
    return not any(
        node.lineno <= shown.start.row <= (node.end_lineno or node.lineno)
        for node in frame.module.every(ast.FunctionDef)
    )


def _cared_for(given: Thing, call: Call) -> bool:
    """Whether the author has cast it to float32, or may have, or has clamped it."""
    if call.path.known(given, "@clamped") is not None:
        return True
    known = call.path.known(given, "@dtype")
    if isinstance(known, Choice):
        return True
    return isinstance(known, Const) and isinstance(known.value, Dtype) and known.value.how == "cast"

"""Tensors of 16 bits in a region that is switched off: what was meant for float32 is not."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import HalfKept, Ref
from mpaudit.source.engine.dtypes import HALF, dtype, reasons_of
from mpaudit.source.engine.registry import on_binary
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import FALSE, Const, External, Thing, Value
from mpaudit.source.library.torch.dtypes import Kind, kind_of_layer, kind_of_operation

if TYPE_CHECKING:
    from mpaudit.finding import Span
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

COMPUTING = (Kind.LOSS, Kind.LOWER, Kind.FLOAT32)


@on_result()
def applied(call: Call, callee: Value, made: Value) -> None:
    """`with autocast(enabled=False): loss = criterion(output, target)`."""
    off = _switched_off(call.engine, call.path)
    if off is None or not isinstance(made, Thing):
        return
    name, kind = _operation(call, callee)
    if kind not in COMPUTING or "dtype" in call.keywords:
        return
    if isinstance(callee, External) or (isinstance(callee, Thing) and callee.kind):
        value, node = call.argument(0, "input"), call.argument_node(0, "input")
    else:
        value = call.receiver
        node = call.node.func.value if isinstance(call.node.func, ast.Attribute) else None
    _tell(call.engine, call.path, name, call.node, value, node, off)


@on_binary
def multiplied(
    engine: Calls, node: ast.BinOp | ast.AugAssign, left: Value, _: Value, path: Path
) -> None:
    """`q @ k` in a region that is switched off."""
    if isinstance(node.op, ast.MatMult) and isinstance(node, ast.BinOp):
        off = _switched_off(engine, path)
        if off is not None:
            _tell(engine, path, "@", node, left, node.left, off)


def _tell(
    engine: Calls,
    path: Path,
    name: str,
    at: ast.AST,
    value: Value | None,
    node: ast.expr | None,
    off: Span,
) -> None:
    known = dtype(value, path)
    if known is None or known.name not in HALF or known.how != "computed" or known.region is None:
        return
    module = path.frame.module
    text = " ".join(module.source(node).split()) if node is not None else ""
    engine.emit(
        HalfKept(
            at=module.span(at),
            operation=name,
            tensor=Ref(value.uid if isinstance(value, Thing) else 0, text),
            dtype=known.name,
            off=off,
            source=known.at,
            because=reasons_of(known),
        ),
        path,
    )


def _switched_off(engine: Calls, path: Path) -> Span | None:
    """Where the innermost region is entered, if it is one that is always switched off."""
    for region in reversed(path.regions):
        if region.kind == "autocast":
            off = path.known(region, "@enabled") == FALSE
            return engine.places.get(region.uid) if off else None
    return None


def _operation(call: Call, callee: Value) -> tuple[str, Kind | None]:
    if isinstance(callee, External):
        name = callee.name.rpartition(".")[2]
        return name, kind_of_operation(name) if callee.name.startswith("torch.") else None
    if isinstance(callee, Thing) and callee.kind in ("Module", "Loss"):
        layer = call.path.known(callee, "@layer")
        name = str(layer.value) if isinstance(layer, Const) else ""
        return name, kind_of_layer(name)
    if isinstance(call.receiver, Thing) and not call.receiver.kind:
        return call.name, kind_of_operation(call.name)
    return "", None

"""Writes by index: `out[mask] = values`, `out.index_add_(0, index, values)`."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import DtypesMixed, Ref
from mpaudit.source.engine.dtypes import HALF, dtype, reasons_of
from mpaudit.source.engine.registry import on_stored
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import Const, Pack, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

SOURCES = {
    "index_put_": (1, "values"),
    "index_add_": (2, "source"),
    "index_add": (2, "source"),
    "index_copy_": (2, "source"),
    "index_copy": (2, "source"),
    "masked_scatter_": (1, "source"),
    "masked_scatter": (1, "source"),
    "scatter_": (2, "src"),
    "scatter": (2, "src"),
    "scatter_add_": (2, "src"),
    "scatter_reduce_": (2, "src"),
    "scatter_reduce": (2, "src"),
}
"""Where methods take the values that they write."""
_QUESTIONS = frozenset({"==", "Lt", "not", "Invert"})
_WHOLE = ("int64", "int32", "bool", "uint8")


@on_result(functions=(), methods=SOURCES)
def written(call: Call, _: Value, made: Value) -> None:
    """`out.scatter_(0, index, values)`."""
    if isinstance(call.node.func, ast.Attribute):
        value, node = call.argument(*SOURCES[call.name]), call.argument_node(*SOURCES[call.name])
        if isinstance(call.receiver, Thing) and isinstance(made, Thing) and node is not None:
            target = call.node.func.value
            pair = (call.receiver, target, value, node)
            _tell(call.engine, call.path, call.name, call.node, *pair)


@on_stored
def stored(
    engine: Calls, target: ast.Subscript, base: Value, key: Value, value: Value, path: Path
) -> None:
    """`out[mask] = values`."""
    statement = path.frame.module.parents.get(target)
    if isinstance(statement, ast.Assign) and isinstance(base, Thing) and not base.kind:
        if _selects(key, engine, path):
            given = (value, statement.value)
            _tell(engine, path, "[]", statement, base, target.value, *given)


def _selects(key: Value, engine: Calls, path: Path) -> bool:
    """Whether a subscript is certainly by a tensor: a mask, or a list of indices."""
    if isinstance(key, Pack):
        return any(_selects(item, engine, path) for item in key.items)
    if not isinstance(key, Thing):
        return False
    known = dtype(key, path)
    if known is not None:
        return known.name in _WHOLE
    operation, *operands = engine.identities.description(key.uid) or ("",)
    return operation in _QUESTIONS and any(
        isinstance(o, Thing) and (dtype(o, path) is not None or _selects(o, engine, path))
        for o in operands
    )


def _tell(
    engine: Calls,
    path: Path,
    operation: str,
    at: ast.AST,
    target: Thing,
    target_node: ast.expr,
    source: Value | None,
    source_node: ast.expr,
) -> None:
    into, of = dtype(target, path), dtype(source, path)
    if into is None or of is None or isinstance(source, Const) or of.lone:
        return
    if into.name == of.name or {into.name, of.name} - {*HALF, "float32"}:
        return
    module = path.frame.module
    engine.emit(
        DtypesMixed(
            at=module.span(at),
            operation=operation,
            target=Ref(target.uid, " ".join(module.source(target_node).split())),
            target_dtype=into.name,
            source=Ref(
                source.uid if isinstance(source, Thing) else 0,
                " ".join(module.source(source_node).split()),
            ),
            source_dtype=of.name,
            because=(*reasons_of(into), *reasons_of(of)),
        ),
        path,
    )

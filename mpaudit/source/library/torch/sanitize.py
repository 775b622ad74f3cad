"""Infinities and nans that are replaced in gradients."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import GradientsSanitized
from mpaudit.source.engine.registry import on_stored
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import Const, External, Thing, Value
from mpaudit.source.library.torch.gradient import optimizers_of
from mpaudit.source.text.walk import walk

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

TESTS = frozenset(["isnan", "isinf", "isfinite"])
FILLS = frozenset(["masked_fill", "masked_fill_"])
NUMBERS = frozenset(["nan_to_num", "nan_to_num_"])


def _replaces(name: str) -> bool:
    return name.startswith("torch.") and name.rpartition(".")[2] in NUMBERS | {"where"}


@on_result(functions=_replaces, methods=NUMBERS | FILLS | {"copy_"})
def replaced(call: Call, function: Value, made: Value) -> None:
    """`p.grad = torch.nan_to_num(p.grad)`, in all its forms."""
    name = call.name.rpartition(".")[2]
    if isinstance(function, External):
        values: tuple[Value | None, ...] = (
            call.arguments[1:] if name == "where" else call.arguments[:1]
        )
        values = values or (call.keywords.get("input"),)
    else:
        values = (call.receiver,)
        if not isinstance(call.receiver, Thing):
            return
    gradient = next((v for v in values if v is not None and _is_gradient(v, call.path)), None)
    if gradient is None:
        return
    if name == "copy_":
        source = call.argument(0, "src")
        if source is not None and call.path.known(source, "@sanitized") is not None:
            _tell(call.engine, call.node, "nan_to_num", gradient, call.path)
        return
    if _is_infinite(call.keywords.get("posinf")):
        return  # only nan is replaced: what overflows is left for the scaler to see
    if name in FILLS | {"where"} and not _asks(call.argument_node(0, "mask")):
        return
    if name.endswith("_") or "out" in call.keywords or _becomes_gradient(call):
        _tell(call.engine, call.node, name, gradient, call.path)
    elif isinstance(made, Thing):
        call.path.learn(made, sanitized=gradient)


@on_stored
def stored(
    engine: Calls, target: ast.Subscript, base: Value, _: Value, __: Value, path: Path
) -> None:
    """`p.grad[torch.isnan(p.grad)] = 0`."""
    if _is_gradient(base, path) and _asks(target.slice):
        _tell(engine, target, "[...] =", base, path)


def _asks(node: ast.expr | None) -> bool:
    """Whether a mask says what is not finite."""
    return node is not None and any(
        isinstance(part, ast.Call)
        and isinstance(part.func, (ast.Name, ast.Attribute))
        and (part.func.id if isinstance(part.func, ast.Name) else part.func.attr) in TESTS
        for part in walk(node)
    )


def _is_infinite(value: Value | None) -> bool:
    if isinstance(value, External):
        return value.name.rpartition(".")[2] in ("inf", "Infinity")
    return isinstance(value, Const) and value.value == float("inf")


def _becomes_gradient(call: Call) -> bool:
    statement = call.path.frame.module.statement(call.node)
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return any(
        isinstance(node, ast.Attribute) and node.attr == "grad"
        for target in targets
        for node in walk(target)
    )


def _is_gradient(value: Value, path: Path) -> bool:
    return path.known(value, "@gradient") is not None


def _tell(engine: Calls, node: ast.AST, how: str, gradient: Value, path: Path) -> None:
    engine.emit(
        GradientsSanitized(
            at=path.frame.module.span(node),
            occasional=any(frame.occasional for frame in path.frames),
            how=how,
            optimizers=optimizers_of(gradient, path),
        ),
        path,
    )

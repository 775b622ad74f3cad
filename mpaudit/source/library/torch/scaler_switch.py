"""What a GradScaler's own switch asks for: `enabled=dtype in ["float16", "bfloat16"]`."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.finding import Span
from mpaudit.source.text.names import Names

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

BFLOAT16 = ("bfloat16", "bf16", "torch.bfloat16")


def asked_for_bfloat16(call: Call, position: int) -> Span | None:
    """Where the condition that switches a scaler on names bfloat16 as one that it is on for."""
    module, switch = call.path.frame.module, call.argument_node(position, "enabled")
    if switch is None or not any(each in module.text for each in BFLOAT16):
        return None
    found = _met_by(switch, Names.of(module))
    return None if found is None else module.span(found)


def _met_by(switch: ast.expr, names: Names) -> ast.expr | None:
    """Where a condition is met by bfloat16: alone, or as one of several cases."""
    match switch:
        case ast.BoolOp(op=ast.Or(), values=values):
            return next((found for each in values if (found := _met_by(each, names))), None)
        case ast.Compare(left=left, ops=[ast.In()], comparators=[several]) if _is_open(left):
            if isinstance(several, (ast.List, ast.Tuple, ast.Set)):
                return next((each for each in several.elts if _is_bfloat16(each, names)), None)
        case ast.Compare(left=left, ops=[ast.Eq() | ast.Is()], comparators=[right]):
            if _is_open(left) and _is_bfloat16(right, names):
                return right
            if _is_open(right) and _is_bfloat16(left, names):
                return left
    return None


def _is_open(node: ast.expr) -> bool:
    return isinstance(node, (ast.Name, ast.Attribute, ast.Subscript))


def _is_bfloat16(node: ast.expr, names: Names) -> bool:
    if isinstance(node, ast.Constant):
        return node.value in BFLOAT16
    return names.resolve(node) == "torch.bfloat16"

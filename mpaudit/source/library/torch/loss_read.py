"""The number in a loss, taken out: `item()`, `float()`."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import Ref, ScaledLossRead
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import Const, External, Pack, Thing, Value
from mpaudit.source.text.memo import for_a_while
from mpaudit.source.text.walk import walk

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

METHODS = frozenset(["item", "tolist", "numpy"])
SAME = frozenset(["detach", "clone", "mean", "sum", "cpu", "float", "double", "to"])
"""What leaves the scale in a loss."""
ARITHMETIC = frozenset(["Add", "Sub", "Mult", "Div"])
MAX_STEPS = 6


@on_result(functions=("builtins.float",), methods=METHODS)
def read(call: Call, function: Value, _: Value) -> None:
    """`scaled_loss.item()`, `float(scaled_loss)`."""
    node = call.node.func
    if call.name in METHODS and isinstance(node, ast.Attribute):
        loss, how, spelled = call.receiver, call.name, node.value
    elif function == External("builtins.float") and call.arguments:
        loss, how, spelled = call.argument(0), "float", call.node.args[0]
    else:
        return
    if not isinstance(loss, Thing) or not _carries(call, loss) or _asks(call):
        return
    scaled = call.path.known(loss, "@scaled")
    if not isinstance(scaled, Pack) or call.path.known(loss, "@scale_of") is not None:
        return
    scalers = [each for each in scaled.items if isinstance(each, Thing)]
    if scalers and call.path.known(scalers[-1], "@differentiated") is None:
        call.emit(
            ScaledLossRead(
                at=call.span,
                occasional=call.occasional,
                loss=call.ref(loss, spelled),
                scaler=Ref(scalers[-1].uid, ""),
                how=how,
            )
        )


def _carries(call: Call, value: Value, steps: int = MAX_STEPS) -> bool:
    """Whether a value is the scaled loss itself, or a sum it is part of."""
    if steps == 0 or not isinstance(value, Thing):
        return False
    operation, *operands = call.engine.identities.description(value.uid)
    if operation == "scaled":
        return True
    if operation in ARITHMETIC:
        return any(_carries(call, o, steps - 1) for o in operands if isinstance(o, Value))
    if operation == "." and operands[1] == Const("data") and isinstance(operands[0], Value):
        return _carries(call, operands[0], steps - 1)
    node = operands[0] if operands else None
    called = node.func if operation == "made" and isinstance(node, ast.Call) else None
    return isinstance(called, ast.Attribute) and called.attr in SAME


def _asks(call: Call) -> bool:
    """Whether the function at hand asks for the scale: it may divide by it."""
    frame = call.path.frame
    return _mentions(frame.function.node if frame.function is not None else frame.module.tree)


@for_a_while(1024)
def _mentions(node: ast.AST) -> bool:
    return any(isinstance(n, ast.Attribute) and n.attr == "get_scale" for n in walk(node))

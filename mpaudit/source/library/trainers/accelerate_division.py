"""Losses that are divided by the number of micro-batches, though `accelerator.backward` does that."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.source.engine.registry import on_binary
from mpaudit.source.engine.values import UNKNOWN, Choice, Const, Pack, Thing, Value
from mpaudit.source.library.trainers.accelerate import ALL

if TYPE_CHECKING:
    from mpaudit.finding import Span
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

MAX_STEPS = 12
"""So many operations on a loss are looked through."""


@on_binary
def divided(
    engine: Calls, node: ast.BinOp | ast.AugAssign, left: Value, right: Value, path: Path
) -> None:
    """`loss / args.gradient_accumulation_steps`: note where it stands."""
    if not isinstance(node.op, ast.Div) or not isinstance(left, (Thing, Choice)):
        return
    known = path.heap.get(ALL)
    for accelerator in known.items if isinstance(known, Pack) else ():
        if isinstance(accelerator, Thing) and _is_number(engine, right, accelerator, path):
            if not _may_be_a_mean(engine, node, left):
                engine.places.setdefault(
                    engine.term("Div", left, right).uid, path.frame.module.span(node)
                )


def _may_be_a_mean(engine: Calls, node: ast.BinOp | ast.AugAssign, left: Value) -> bool:
    """Whether a literal divisor may be what it is by chance: the number of losses, the batch size."""
    if isinstance(node, ast.BinOp):
        divisor, dividend = node.right, node.left
    else:
        divisor, dividend = node.value, node.target
    if not isinstance(divisor, ast.Constant):
        return False
    return not isinstance(dividend, (ast.Name, ast.Attribute)) or _summands(engine, left) > 1


def _summands(engine: Calls, value: object) -> int:
    if not isinstance(value, Thing):
        return 1
    operation, *operands = engine.identities.description(value.uid)
    return sum(_summands(engine, each) for each in operands) if operation == "Add" else 1


def _is_number(engine: Calls, value: object, accelerator: Thing, path: Path) -> bool:
    """Whether a value is the number of micro-batches that an Accelerator was told."""
    steps = engine.logic.settled(path.known(accelerator, "@steps"), path)
    if steps in (None, UNKNOWN):
        return value == engine.term(".", accelerator, Const("gradient_accumulation_steps"))
    return value == steps and steps != Const(1)


def division(call: Call, loss: Value, accelerator: Thing) -> Span | None:
    """Where a loss was divided by the number of micro-batches, None if it was not or not only that."""
    found = _division(call.engine, loss, accelerator, call.path, MAX_STEPS)
    return found if found is None else call.engine.places.get(found.uid)


def _division(
    engine: Calls, value: object, accelerator: Thing, path: Path, steps: int
) -> Thing | None:
    if not isinstance(value, Thing) or not steps:
        return None
    operation, *operands = engine.identities.description(value.uid)
    if operation == "Div":
        if _is_number(engine, operands[1], accelerator, path):
            return value
        operands = operands[:1]
    elif operation == "Mult":
        if any(_is_number(engine, each, accelerator, path) for each in operands):
            return None  # multiplied by it as well: somebody counts tokens, not batches
    elif operation not in ("Add", "Sub", "USub"):
        return None
    for each in operands:
        found = _division(engine, each, accelerator, path, steps - 1)
        if found is not None:
            return found
    return None

"""Which values are plain Python numbers: such a factor never changes the dtype of a tensor."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING

from mpaudit.source.engine.path import Identities, Path
from mpaudit.source.engine.values import NONE, TRUE, Const, Pack, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

_ARITHMETIC = frozenset({"Add", "Sub", "Mult", "Div", "Mod", "Pow", "USub", "UAdd", "if", "or"})
_COUNTED = frozenset({"builtins.int", "builtins.float", "builtins.len", "builtins.round"})
_STATED = frozenset({"int", "float", "bool", "int | None", "float | None"}) | {
    f"{typing}Optional[{name}]" for typing in ("", "typing.", "t.") for name in ("int", "float")
}
_COMPUTED: dict[object, Callable[..., float]] = {
    "Pow": pow,
    "USub": operator.neg,
    "Add": operator.add,
    "Sub": operator.sub,
    "Mult": operator.mul,
    "Div": operator.truediv,
}
_MEASURING = frozenset({"item", "size", "dim", "numel", "ndimension", "nelement", "tolist"})
MAX_DEPTH = 8


def is_number(value: Value | None, path: Path, identities: Identities, depth: int = 0) -> bool:
    """Whether a value is a Python number (or nothing at all), as far as its origin tells."""
    if isinstance(value, Const):
        return value == NONE or isinstance(value.value, (int, float))
    if not isinstance(value, Thing) or value.kind or depth > MAX_DEPTH:
        return False
    if path.known(value, "@number") is not None:
        return True
    operation, *operands = identities.description(value.uid) or ("",)
    if operation in _COUNTED:
        return True
    if operation == "[]" and isinstance(operands[0], Thing):
        of = identities.description(operands[0].uid)
        return path.known(operands[0], "@number") is not None or (
            len(of) == 3 and of[0] == "." and of[2] == Const("shape")
        )
    if operation == "parameter" and isinstance(operands[0], ast.arg):
        stated = operands[0].annotation
        return stated is not None and ast.unparse(stated) in _STATED
    if operation in (".", "FloorDiv"):
        if operation == ".":
            return operands[1] in (Const("ndim"), Const("itemsize"))
        return any(_each(operand, path, identities, depth) for operand in operands)
    if operation in _ARITHMETIC:
        parts = operands[1:] if operation == "if" else operands
        return bool(parts) and all(_each(part, path, identities, depth) for part in parts)
    return False


def number(value: Value | None, identities: Identities, depth: int = 0) -> float | None:
    """The number that a value is, also behind a power (`-2 ** 32`); None where it is none."""
    if isinstance(value, Const):
        plain = value.value
        if isinstance(plain, bool) or not isinstance(plain, (int, float)) or abs(plain) > 1e300:
            return None
        return float(plain)
    if not isinstance(value, Thing) or value.kind or depth > MAX_DEPTH:
        return None
    operation, *operands = identities.description(value.uid) or ("",)
    if operation not in _COMPUTED:
        return None
    known: list[float] = []
    for operand in operands:
        part = number(operand, identities, depth + 1) if isinstance(operand, Value) else None
        if part is None:
            return None
        known.append(part)
    if operation == "Pow" and (abs(known[0]) > 1e4 or abs(known[1]) > 64 or known[0] <= 0):
        return None
    if operation == "Div" and not known[1]:
        return None
    return float(_COMPUTED[operation](*known))


def _each(operand: object, path: Path, identities: Identities, depth: int) -> bool:
    value = operand if isinstance(operand, Value) else None
    return value is not None and is_number(value, path, identities, depth + 1)


def measured(call: Call, result: Value) -> None:
    """Note the numbers that calls return: `math.sqrt(d)`, `x.size(-1)`, `loss.item()`."""
    if not isinstance(result, Thing) or result.kind:
        return
    if call.receiver is None:
        if call.name.startswith("math."):
            call.path.learn(result, number=TRUE)
    elif call.name in _MEASURING:
        call.path.learn(result, number=TRUE)


def sized(values: tuple[Value, ...], call: Call) -> None:
    """Note that the arguments of a layer's constructor, and what they are computed from, are numbers."""
    waiting: list[tuple[object, int]] = [(value, 0) for value in values]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, Pack):
            waiting.extend((item, depth + 1) for item in value.items)
        elif isinstance(value, Thing) and not value.kind and depth < MAX_DEPTH:
            operation, *operands = call.engine.identities.description(value.uid) or ("",)
            if operation in _ARITHMETIC or operation == "FloorDiv":
                waiting.extend((operand, depth + 1) for operand in operands)
            elif call.path.known(value, "@number") is None:
                call.path.learn(value, number=TRUE)

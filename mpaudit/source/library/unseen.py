"""Values that a caller hands over whom nobody has seen, and what comes out of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import TRUE, Bound, External, Thing, Value
from mpaudit.source.library.torch.activation import KEEPS

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

MAX_STEPS = 8
_SAME = KEEPS | {"cast", "identity", "expand_dims", "convert_to_tensor"}
"""Functions of either framework whose results are the numbers that they were given."""


def unseen(value: object, engine: Calls, path: Path) -> bool:
    """Whether a value comes from a caller nobody has seen, or from what such a caller handed over."""
    for _ in range(MAX_STEPS):
        if not isinstance(value, Thing):
            return False
        if path.known(value, "@unseen") is not None:
            return True
        operation, *operands = engine.identities.description(value.uid)
        if operation == "parameter":
            context = operands[-1]
            return isinstance(context, int) and (
                engine.identities.description(context)[0] == "entry"
            )
        if operation not in ("[]", ".", "each"):
            return False
        value = operands[0]
    return False


@on_result(functions=lambda name: name.rpartition(".")[2] in _SAME)
def came_out(call: Call, callee: Value, made: Value) -> None:
    """`model(x)` and `x.flatten(1)`, where `model` and `x` were handed over."""
    if not isinstance(made, Thing) or made.kind:
        return
    source: object = callee
    if isinstance(callee, External):
        source = call.argument(0)
    elif isinstance(callee, Bound):
        source = callee.receiver
        if isinstance(source, Thing) and source.kind == "instance":
            call.path.learn(made, unseen=TRUE)  # a method that the class itself does not define
            return
    elif call.receiver is not None:
        source = call.receiver
    if unseen(source, call.engine, call.path):
        call.path.learn(made, unseen=TRUE)

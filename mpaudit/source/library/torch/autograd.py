"""torch.autograd: own functions of the project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import FunctionApplied
from mpaudit.source.engine.registry import method
from mpaudit.source.engine.values import Class, External, Value
from mpaudit.source.trait.autograd_function import FUNCTION, beside_amp, flaw, functions

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call


@method("Class", "apply")
def apply(call: Call) -> Value | None:
    """`MyFunction.apply(x, weight)`; what comes back is as unknown as ever."""
    receiver = call.receiver
    region = call.engine.describe(call.engine.region(call.path), call.path)
    if not isinstance(receiver, Class) or region is None:
        return None
    if region.dtype not in ("float16", "bfloat16"):
        return None
    if not any(isinstance(base, External) and base.name in FUNCTION for base in receiver.bases):
        return None
    for function in functions(receiver.module):
        found = flaw(function, receiver.module) if function.node is receiver.node else None
        if found is not None and not beside_amp(function, receiver.module):
            call.emit(
                FunctionApplied(
                    at=call.span,
                    occasional=call.occasional,
                    name=receiver.node.name,
                    flaw=found[0],
                    place=receiver.module.span(found[1]),
                    region=region,
                )
            )
    return None

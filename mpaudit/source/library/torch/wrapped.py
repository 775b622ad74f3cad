"""Models that come back from a trainer's library in a wrapper: Accelerate, Fabric, DeepSpeed, apex.

What the wrapper does to gradients is the library's affair, so it does not stand for the model in any
protocol; but what leaves it is what leaves the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.source.engine.path import lookup
from mpaudit.source.engine.registry import called, on_operation
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import (
    Bound,
    Class,
    Const,
    External,
    Function,
    Pack,
    Thing,
    Value,
)
from mpaudit.source.library.torch.activation import activated, nature_of
from mpaudit.source.library.torch.chain import leaving_model

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

METHODS = ("prepare", "prepare_model", "setup", "setup_module")
"""What Accelerate and Fabric call it; they return what they were given, in order."""
FUNCTIONS = ("deepspeed.initialize", "apex.amp.initialize")
"""What they return begins with the model."""


@on_result(functions=FUNCTIONS, methods=METHODS)
def wrapped(call: Call, callee: Value, made: Value) -> None:
    """`model, optimizer = accelerator.prepare(model, optimizer)`."""
    if not isinstance(made, Thing) or made.kind not in ("", "library"):
        return
    if isinstance(callee, External):
        model = call.argument(0, "model")
        if isinstance(model, Thing) and model.kind == "Module":
            call.path.learn(made, returned=Pack((model,)))
    elif isinstance(callee, Bound) and call.arguments:
        if any(isinstance(a, Thing) and a.kind == "Module" for a in call.arguments):
            call.path.learn(made, returned=Pack(call.arguments))
        if len(call.arguments) == 1:
            call.path.learn(made, wraps=call.arguments[0])


@on_operation
def unpacked(
    _: Calls, operation: str, operands: tuple[Value, ...], made: Thing, path: Path
) -> None:
    """One of the things that came back."""
    if operation != "[]" or not isinstance(operands[1], Const):
        return
    returned, index = path.known(operands[0], "@returned"), operands[1].value
    if isinstance(returned, Pack) and isinstance(index, int) and index < len(returned.items):
        model = returned.items[index]
        if isinstance(model, Thing) and model.kind == "Module":
            path.learn(made, wraps=model)


@called("")
def call_wrapper(call: Call) -> Value | None:
    """`model(x)` of a model in a wrapper."""
    model, path = call.path.known(call.thing, "@wraps"), call.path
    if not isinstance(model, Thing) or model.kind != "Module" or call.engine.narrow:
        return None
    result: Value | None = None
    owner = path.known(model, "@class")
    forward = lookup(path, owner, "forward") if isinstance(owner, Class) else None
    if isinstance(forward, Function) and call.engine.relevance.following(forward):
        place, done = call.engine.site(call.node, 0), path.frame.done
        if place not in done:
            arguments = (model, *call.arguments)
            done[place] = call.engine.enter(place, forward, arguments, call.keywords, path)
        result = done[place]
    if isinstance(result, Pack):
        return result
    made = call.engine.unknown_call(call, call.thing)
    nature = nature_of(result, path)
    if isinstance(made, Thing) and isinstance(result, Thing) and nature is not None:
        activated(made, nature, result, call)
    elif isinstance(made, Thing):
        leaving_model(call, made, model)
    return made

"""Whether a layer is called in order to train: Keras hands `training` on to the layers within."""

from __future__ import annotations

import ast

from mpaudit.source.engine.path import lookup
from mpaudit.source.engine.request import Call
from mpaudit.source.engine.values import NONE, Class, Function, Value

_NAME = "training"


def training_handed_on(call: Call) -> None:
    """Give the `call` of a project's own layer or model the `training` that Keras would.

    It is what the call says, else what the `call` around it was given; where nobody says it, a model is
    called in both ways, when it is trained and when it is used, and all its layers in the same.
    """
    owner = call.path.known(call.thing, "@class")
    method = lookup(call.path, owner, "call") if isinstance(owner, Class) else None
    if not isinstance(method, Function):
        return
    position = _position(method)
    if position is None:
        return
    given = call.argument(position, _NAME)
    if given in (None, NONE) and position >= len(call.arguments):
        call.keywords = {**call.keywords, _NAME: _around(call)}


def _position(method: Function) -> int | None:
    """Where a method takes `training`, its receiver not counted; None if it does not."""
    spec = method.node.args
    positional = [each.arg for each in (*spec.posonlyargs, *spec.args)][1:]
    if _NAME in positional:
        return positional.index(_NAME)
    return len(positional) if any(each.arg == _NAME for each in spec.kwonlyargs) else None


def _around(call: Call) -> Value:
    frame = call.path.frame
    if frame.function is not None and isinstance(frame.function.node, ast.FunctionDef):
        if frame.function.node.name == "call":
            given = call.engine.logic.settled(
                call.path.heap.get((frame.scopes[0], _NAME)), call.path
            )
            if given not in (None, NONE):
                return given
    return call.engine.term(_NAME)

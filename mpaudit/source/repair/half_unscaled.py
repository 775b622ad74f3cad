"""Repairs of parameters that were cast to float16 before a scaler has to do with them."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.registry import Context, alone, block_of, lines_of, repairs
from mpaudit.source.text.module import Module

MESSAGE = "Leave the parameters in float32: autocast makes the float16 copies"
HALVES = ("half", "float16")


@repairs("scaler-with-half-parameters")
def drop_cast(context: Context) -> Fix | None:
    """Take out `model.half()`, or the dtype of `.to(device, torch.float16)`, where autocast is there."""
    module, cast = context.module, context.node(ast.Call)
    edit = None
    if isinstance(cast, ast.Call) and context.subject("region"):
        edit = _without(module, cast)
    if edit is not None:
        return Fix(MESSAGE, (edit,), Safety.SAFE)
    message = f"{MESSAGE}, if the forward pass runs under `torch.autocast`"
    return Fix(message, (), Safety.SUGGESTION)


def _without(module: Module, cast: ast.Call) -> Edit | None:
    if not isinstance(cast.func, ast.Attribute):
        return None
    given = [*cast.args, *(keyword.value for keyword in cast.keywords)]
    if cast.func.attr == "half" and not given:
        return _without_call(module, cast)
    stated = [value for value in given if _is_half(value)]
    if cast.func.attr != "to" or len(stated) != 1:
        return None
    if len(given) == 1:
        return _without_call(module, cast)
    if len(given) != 2 or given[1] is not stated[0]:
        return None
    return Edit(module.range(given[0])[1], _end(module, cast), "")


def _end(module: Module, cast: ast.Call) -> int:
    """The end of the last argument."""
    last = cast.keywords[-1] if cast.keywords else cast.args[-1]
    return module.range(last)[1]


def _is_half(value: ast.expr) -> bool:
    return isinstance(value, ast.Attribute) and value.attr in HALVES


def _without_call(module: Module, cast: ast.Call) -> Edit | None:
    """`model.half()` goes with its line; of `Net().half()`, `Net()` is left."""
    assert isinstance(cast.func, ast.Attribute)
    receiver, statement = cast.func.value, module.statement(cast)
    match statement:
        case ast.Expr(value=value):
            whole = value is cast
        case ast.Assign(targets=[target], value=value):
            whole = value is cast and ast.unparse(target) == ast.unparse(receiver)
        case _:
            whole = False
    if isinstance(receiver, (ast.Name, ast.Attribute)) and whole:
        if not alone(module, statement) or len(block_of(module, statement)) < 2:
            return None
        return Edit(*lines_of(module, statement), "")
    return Edit(module.range(receiver)[1], module.range(cast)[1], "")

"""Loss scaling as Keras 2 has it, brought to Keras 3."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.registry import Context, alone, lines_of, repairs
from mpaudit.source.repair.tape_call import calls_of, function_around, receiver
from mpaudit.source.text.module import Module
from mpaudit.source.text.walk import walk

SCALE, UNSCALE = "get_scaled_loss", "get_unscaled_gradients"
NO_CHOICE = ("True", "'dynamic'")
"""What may be dropped as an argument: it is what Keras 3 does."""


@repairs("legacy-loss-scale-api")
def modernise(context: Context) -> Fix | None:
    """Scale with `scale_loss` and leave unscaling to `apply_gradients`: both, or neither."""
    call = context.node(ast.Call)
    if not isinstance(call, ast.Call):
        return None
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if method in (SCALE, UNSCALE):
        edits = _loop(context.module, call)
        return None if edits is None else Fix("Use Keras 3's scale_loss", tuple(edits), Safety.SAFE)
    return _argument(context.module, call)


def _loop(module: Module, call: ast.Call) -> list[Edit] | None:
    """The edits for all calls on the same optimizer in a function."""
    function, optimizer = function_around(module, call), receiver(call)
    scaled, unscaled, applied = (
        [
            each
            for name in names
            for each in calls_of(function, name)
            if receiver(each) == optimizer and function_around(module, each) is function
        ]
        for names in ((SCALE,), (UNSCALE,), ("apply_gradients", "apply"))
    )
    if not scaled or not len(unscaled) == len(applied) == 1:
        return None
    edits = []
    for each in scaled:
        assert isinstance(each.func, ast.Attribute)
        _, end = module.range(each.func)
        edits.append(Edit(end - len(SCALE), end, "scale_loss"))
    dropped = _dropped(module, function, unscaled[0], applied[0])
    return None if dropped is None else [*edits, *dropped]


def _dropped(
    module: Module, function: ast.AST, call: ast.Call, applied: ast.Call
) -> list[Edit] | None:
    """Take out the unscaling of gradients that go from there to the optimizer and nowhere else."""
    if len(call.args) != 1 or call.keywords:
        return None
    inside = {id(node) for node in walk(applied)}
    given = module.text[slice(*module.range(call.args[0]))]
    if id(call) in inside:
        return [Edit(*module.range(call), given)]
    statement = module.statement(call)
    if not isinstance(statement, ast.Assign) or statement.value is not call:
        return None
    if len(statement.targets) != 1 or not isinstance(statement.targets[0], ast.Name):
        return None
    name = statement.targets[0].id
    below = statement.end_lineno or statement.lineno
    uses = [
        node
        for node in walk(function)
        if isinstance(node, ast.Name) and node.id == name and node.lineno > below
    ]
    if not uses or not all(id(node) in inside for node in uses) or not alone(module, statement):
        return None
    taken_out = Edit(*lines_of(module, statement), "")
    if given == name:
        return [taken_out]
    if not isinstance(call.args[0], ast.Name):
        return [Edit(*module.range(call), given)]
    return [taken_out, *(Edit(*module.range(node), given) for node in uses)]


def _argument(module: Module, call: ast.Call) -> Fix | None:
    """Drop a second argument, or `loss_scale=`, that asks for what Keras 3 does anyhow."""
    second = call.args[1] if len(call.args) == 2 else None
    keyword = next((k for k in call.keywords if k.arg == "loss_scale"), None)
    if second is not None and keyword is None and not call.keywords:
        value, first = second, call.args[0]
    elif keyword is not None and second is None and len(call.args) == len(call.keywords) == 1:
        value, first = keyword.value, call.args[0]
    else:
        return None
    if ast.unparse(value) not in NO_CHOICE:
        return None
    start, end = module.range(first)[1], module.range(value)[1]
    return Fix("Leave the argument out", (Edit(start, end, ""),), Safety.SAFE)

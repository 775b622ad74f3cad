"""Repairs of autocast regions."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.registry import (
    Context,
    alone,
    block_of,
    indentation,
    insert_after,
    lines_of,
    reindent,
    repairs,
    spans_lines,
)
from mpaudit.source.text.module import Module
from mpaudit.source.text.walk import walk


@repairs("backward-in-autocast")
def leave_region(context: Context) -> Fix | None:
    """Dedent the statements from `backward()` on out of the `with`."""
    module, backward = context.module, context.statement_at(context.problem.span)
    if backward is None:
        return None
    parent = module.parents[backward]
    if not isinstance(parent, ast.With) or len(parent.items) != 1 or not alone(module, backward):
        return None
    block = parent.body
    kept, moved = block[: block.index(backward)], block[block.index(backward) :]
    if not kept or spans_lines(moved):
        return None
    forwards = {ast.unparse(call.func) for call in _kept_calls(kept)}
    if any(ast.unparse(call.func) in forwards for s in moved for call in calls(s)):
        return None
    start, end = lines_of(module, moved[0], moved[-1])
    text = reindent(
        module.text[start:end], indentation(module, backward), indentation(module, parent)
    )
    return Fix("Leave the region before backward", (Edit(start, end, text),), Safety.SAFE)


def _kept_calls(statements: list[ast.stmt]) -> Iterator[ast.Call]:
    """The calls whose results statements keep: of the model, and of the loss."""
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
            yield statement.value


def calls(node: ast.AST) -> Iterator[ast.Call]:
    """Every call inside a node."""
    return (each for each in walk(node) if isinstance(each, ast.Call))


@repairs("autocast-device-mismatch")
def move_to_device(context: Context) -> Fix | None:
    """Move the model, what it is given, and the loss' target to the GPU where there is one."""
    module, model = context.module, context.subject("model")
    torch = _imported_as(module, "torch")
    forwards = [call for call in calls(module.tree) if ast.unparse(call.func) == model]
    if model is None or torch is None or len(forwards) != 1 or _bound(module, "device"):
        return None
    (forward,) = forwards
    made = [
        node
        for node in walk(module.tree)
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [model]
    ]
    kept = module.parents[forward]
    if len(made) != 1 or not isinstance(kept, ast.Assign) or len(kept.targets) != 1:
        return None
    choice = f'device = "cuda" if {torch}.cuda.is_available() else "cpu"'
    if module.quote == "'":
        choice = choice.replace('"', "'")
    added = insert_after(module, made[0], choice, f"{model}.to(device)")
    inputs = [*forward.args, *_targets(module, kept)]
    if added is None or not inputs or not all(_movable(each) for each in inputs):
        return None
    ends = [module.range(each)[1] for each in inputs]
    edits = (added, *(Edit(end, end, ".to(device)") for end in ends))
    return Fix("Move the model and its data to the GPU where there is one", edits, Safety.UNSAFE)


def _targets(module: Module, kept: ast.Assign) -> list[ast.expr]:
    """The other arguments of the calls that are given the model's output: the loss' target."""
    output = ast.unparse(kept.targets[0])
    block = block_of(module, kept)
    rest = block[block.index(kept) + 1 :]
    around = module.parents[kept]
    if isinstance(around, ast.With):
        outer = block_of(module, around)
        rest = [*rest, *outer[outer.index(around) + 1 :]]
    return [
        argument
        for statement in rest
        for call in calls(statement)
        if any(ast.unparse(each) == output for each in call.args)
        for argument in call.args
        if ast.unparse(argument) != output and not isinstance(argument, ast.Constant)
    ]


def _movable(node: ast.expr) -> bool:
    return isinstance(node, (ast.Name, ast.Attribute, ast.Subscript, ast.Call))


def _imported_as(module: Module, library: str) -> str | None:
    for node in walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == library:
                    return alias.asname or alias.name
    return None


def _bound(module: Module, name: str) -> bool:
    return any(
        (isinstance(node, ast.Name) and node.id == name)
        or (isinstance(node, ast.arg) and node.arg == name)
        for node in walk(module.tree)
    )

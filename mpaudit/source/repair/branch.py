"""What a call stands under that another statement does not: a repair has to repeat it.

The condition that there is a scaler, or a loop over optimizers.
"""

from __future__ import annotations

import ast

from mpaudit.fix import Edit
from mpaudit.source.repair.registry import insert_before, unit
from mpaudit.source.text.module import Module
from mpaudit.source.text.walk import walk
from mpaudit.source.trait.guard import left_without_update


class UnaskableError(Exception):
    """It cannot be asked, or gone through, a second time, or somewhere else."""


def unscaled(module: Module, clip: ast.stmt, step: ast.Call) -> list[Edit] | None:
    """`scaler.unscale_(optimizer)` above a clip, under what `scaler.step(optimizer)` stands under.

    A guard that leaves the pass between the two, because the norm is not finite, has to update the scaler
    then: the next `unscale_` raises else. None where the step's condition or loop cannot be repeated, or
    a line has no room.
    """
    lines = unscaling(module, clip, step)
    if lines is None:
        return None
    edits = [insert_before(module, clip, *lines)]
    above = [line for line in lines[:-1] if line.startswith("if ")]
    assert isinstance(step.func, ast.Attribute)
    update = f"{ast.unparse(step.func.value)}.update()"
    for leaves in left_without_update(module, clip):
        pad = unit(module, leaves) if above else ""
        edits.append(insert_before(module, leaves, *above, f"{pad}{update}"))
    made = [each for each in edits if each is not None]
    return made if len(made) == len(edits) else None


def unscaling(module: Module, clip: ast.stmt, step: ast.Call) -> list[str] | None:
    """The lines of `scaler.unscale_(optimizer)` above a clip (see `unscaled`)."""
    assert isinstance(step.func, ast.Attribute)
    scaler, optimizer = ast.unparse(step.func.value), ast.unparse(step.args[0])
    try:
        condition = amp_branch(module, step, optimizer, clip)
        optimizers = optimizer_loop(module, step, optimizer, clip)
    except UnaskableError:
        return None
    heads = [f"if {condition}:"] if condition is not None else []  # else there may be no scaler
    heads += [f"for {optimizer} in {optimizers}:"] if optimizers is not None else []
    lines = [*heads, f"{scaler}.unscale_({optimizer})"]
    return [f"{unit(module, clip) * depth}{line}" for depth, line in enumerate(lines)]


def amp_branch(module: Module, step: ast.Call, optimizer: str, before: ast.stmt) -> str | None:
    """The condition of `if use_amp: scaler.step(optimizer)`, whose other branch steps without a scaler.

    None if the step is under no such condition, or `before` is under it as well. Raises UnaskableError
    if the condition is no plain question (it calls something), or may be another one at `before`.
    """
    node: ast.AST = step
    while node in module.parents:
        child, node = node, module.parents[node]
        if not isinstance(node, (ast.If, ast.IfExp)) or child is node.test:
            continue
        if any(each is before for each in walk(node)):
            return None
        branches = [each if isinstance(each, list) else [each] for each in (node.body, node.orelse)]
        mine, other = branches if child in branches[0] else reversed(branches)
        if not any(_steps(each, optimizer) for part in other for each in walk(part)):
            continue
        asked = module.source(node.test)
        asks = ast.Call | ast.NamedExpr | ast.Await
        if "\n" in asked or any(isinstance(each, asks) for each in walk(node.test)):
            raise UnaskableError
        names = {each.id for each in walk(node.test) if isinstance(each, ast.Name)}
        if _bound_between(module, before, node) & names:
            raise UnaskableError
        return asked if mine is branches[0] else _negated(module, node.test)
    return None


def optimizer_loop(module: Module, step: ast.Call, optimizer: str, before: ast.stmt) -> str | None:
    """What `for optimizer in optimizers: scaler.step(optimizer)` goes through.

    None if the optimizer is no name of such a loop, or `before` is in the loop as well. Raises
    UnaskableError if the loop may go through something that can be gone through only once.
    """
    node: ast.AST = step
    while node in module.parents:
        node = module.parents[node]
        if not isinstance(node, (ast.For, ast.AsyncFor)):
            continue
        names = {each.id for each in walk(node.target) if isinstance(each, ast.Name)}
        if optimizer.partition(".")[0] not in names:
            continue
        if any(each is before for each in walk(node)):
            return None
        plain = isinstance(node.target, ast.Name) and isinstance(node, ast.For)
        if not plain or not isinstance(node.iter, (ast.Name, ast.Attribute)):
            raise UnaskableError
        return module.source(node.iter)
    return None


def _negated(module: Module, test: ast.expr) -> str:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return module.source(test.operand)
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Is) and len(test.ops) == 1:
        return f"{module.source(test.left)} is not {module.source(test.comparators[0])}"
    if isinstance(test, (ast.Name, ast.Attribute)):
        return f"not {module.source(test)}"
    return f"not ({module.source(test)})"


def _steps(node: ast.AST, optimizer: str) -> bool:
    """Whether a node is `optimizer.step()`."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "step"
        and ast.unparse(node.func.value) == optimizer
    )


def _bound_between(module: Module, first: ast.stmt, last: ast.stmt | ast.expr) -> set[str]:
    """The names that are bound in the lines between two statements."""
    root: ast.AST = last
    while root in module.parents and not isinstance(root, (ast.FunctionDef, ast.AsyncFunctionDef)):
        root = module.parents[root]
    return {
        each.id
        for each in walk(root)
        if isinstance(each, ast.Name)
        and isinstance(each.ctx, ast.Store)
        and first.lineno <= each.lineno < last.lineno
    }

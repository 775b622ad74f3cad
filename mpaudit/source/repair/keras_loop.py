"""Loss scaling for a GradientTape loop: the optimizer wrapped, the loss scaled inside the tape."""

from __future__ import annotations

import ast

from mpaudit.finding import Problem
from mpaudit.fix import Edit
from mpaudit.protocols.keras_loss_scale_problems import TAKEN, UNWRAPPED
from mpaudit.source.api.keras_names import LEGACY, ROOTS
from mpaudit.source.repair.registry import insert_after, insert_before
from mpaudit.source.repair.tape_call import function_around, related_call
from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names
from mpaudit.source.text.walk import walk


def wrap_optimizer(module: Module, problem: Problem) -> list[Edit] | None:
    """`Adam()` -> `LossScaleOptimizer(Adam())`, spelled as the file spells Keras."""
    node = related_call(module, problem, UNWRAPPED)
    if not isinstance(node, ast.Call):
        return None
    name = _wrapper(module, node.func)
    if name is None:
        return None
    start, end = module.range(node)
    return [Edit(start, start, f"{name}("), Edit(end, end, ")")]


def _wrapper(module: Module, function: ast.expr) -> str | None:
    """How the file can spell LossScaleOptimizer, going by how it spells another optimizer."""
    names = Names.of(module)
    meaning, spelled = names.resolve(function) or "", module.source(function)
    if meaning.startswith(LEGACY) or ".legacy." in meaning or ".experimental." in meaning:
        return None
    if meaning.startswith("tensorflow.optimizers.") and ".optimizers." in spelled:
        return spelled.rpartition(".optimizers.")[0] + ".keras.mixed_precision.LossScaleOptimizer"
    if not meaning.startswith(tuple(f"{root}.optimizers." for root in ROOTS)):
        return None
    before, found, _ = spelled.rpartition(".optimizers.")
    if found:
        return before + ".mixed_precision.LossScaleOptimizer"
    if isinstance(function, ast.Attribute):
        return spelled.rpartition(".")[0] + ".LossScaleOptimizer"
    if not isinstance(function, ast.Name):
        return None
    for root in ROOTS:
        for inner, rest in (
            (f"{root}.mixed_precision.LossScaleOptimizer", ""),
            (f"{root}.optimizers.LossScaleOptimizer", ""),
            (f"{root}.mixed_precision", ".LossScaleOptimizer"),
            (root, ".mixed_precision.LossScaleOptimizer"),
        ):
            known = names.spelling(inner, function)
            if known is not None and not inner.startswith(LEGACY):
                return known + rest
    known = names.spelling("tensorflow", function)
    return None if known is None else f"{known}.keras.mixed_precision.LossScaleOptimizer"


def scale_loss(module: Module, problem: Problem) -> list[Edit] | None:
    """Scale the loss at the end of the tape, and take the gradients of the scaled loss.

    None where the gradients are clipped, logged or kept on their way to the optimizer: there they
    would be the scaled ones.
    """
    gradient, optimizer = (
        related_call(module, problem, TAKEN),
        dict(problem.subjects).get("optimizer"),
    )
    applied = module.node_at(problem.span, ast.Call)
    if not isinstance(gradient, ast.Call) or not isinstance(gradient.func, ast.Attribute):
        return None
    if applied is None or not optimizer or "TF_USE_LEGACY_KERAS" in module.text:
        return None
    function = function_around(module, gradient)
    if function is not function_around(module, applied) or not _dotted(optimizer):
        return None
    target = next((k.value for k in gradient.keywords if k.arg == "target"), None)
    target = gradient.args[0] if gradient.args else target
    if not isinstance(target, ast.Name) or not _straight(module, function, gradient, applied):
        return None
    scaled = f"scaled_{target.id}"
    if any(isinstance(n, ast.Name) and n.id == scaled for n in walk(function)):
        return None
    calls = _calls_of_scale_loss(function, optimizer)
    if calls:  # a plain optimizer hands the loss back as it is
        thrown = _thrown_away(module, calls, target.id)
        if thrown is None:
            return [] if problem.rule != "missing-scale-loss" else None
        start, _ = module.range(thrown)
        added: Edit | None = Edit(start, start, f"{scaled} = ")
    else:
        line = f"{scaled} = {optimizer}.scale_loss({target.id})"
        added = _insert(module, function, gradient, line)
    return None if added is None else [added, Edit(*module.range(target), scaled)]


def _straight(module: Module, function: ast.AST, gradient: ast.Call, applied: ast.AST) -> bool:
    """Whether the gradients go from the tape to the optimizer and nowhere else."""
    inside = {id(node) for node in walk(applied)}
    if id(gradient) in inside:
        return True
    statement = module.statement(gradient)
    if not isinstance(statement, ast.Assign) or statement.value is not gradient:
        return False
    if len(statement.targets) != 1 or not isinstance(statement.targets[0], ast.Name):
        return False
    name = statement.targets[0].id
    uses = [n for n in walk(function) if isinstance(n, ast.Name) and n.id == name]
    elsewhere = [n for n in uses if id(n) not in inside and n is not statement.targets[0]]
    return not elsewhere


def _calls_of_scale_loss(function: ast.AST, optimizer: str) -> list[ast.Call]:
    return [
        node
        for node in walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "scale_loss"
        and ast.unparse(node.func.value) == optimizer
    ]


def _thrown_away(module: Module, calls: list[ast.Call], loss: str) -> ast.Call | None:
    """The call of `scale_loss(loss)` whose result nobody takes."""
    for call in calls:
        taken = not isinstance(module.parents[call], ast.Expr)
        if not taken and len(call.args) == 1 and ast.unparse(call.args[0]) == loss:
            return call
    return None


def _insert(module: Module, function: ast.AST, gradient: ast.Call, line: str) -> Edit | None:
    """Insert a line at the end of the tape that the gradients are taken from."""
    assert isinstance(gradient.func, ast.Attribute)
    tape = ast.unparse(gradient.func.value)
    tapes = [
        node
        for node in walk(function)
        if isinstance(node, ast.With)
        and node.lineno <= gradient.lineno
        and any(ast.unparse(i.optional_vars or i.context_expr) == tape for i in node.items)
    ]
    if not tapes:
        return None
    recorded = max(tapes, key=lambda node: node.lineno)
    inside = module.statement(gradient)
    if (recorded.end_lineno or 0) >= gradient.lineno:
        return insert_before(module, inside, line)
    return insert_after(module, recorded.body[-1], line)


def _dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))

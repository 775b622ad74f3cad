"""Repairs of checkpoints."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.module import Module
from mpaudit.source.repair.registry import Context, insert_after, repairs
from mpaudit.source.walk import walk

KEY = "scaler"


@repairs("scaler-not-checkpointed")
def save_scaler(context: Context) -> Fix | None:
    """Add the scaler's state to the dictionary that holds the optimizer's."""
    module, taken, scaler = context.module, context.node(ast.Call), context.subject("scaler")
    if not isinstance(taken, ast.Call) or scaler is None or not _there(module, taken, scaler):
        return None
    holder = module.parents[taken]
    edit = None
    if isinstance(holder, ast.Dict):
        edit = _entry(module, holder, taken, scaler)
    elif isinstance(holder, ast.Assign) and len(holder.targets) == 1:
        edit = _item(module, holder, holder.targets[0], scaler)
    if edit is None:
        return None
    message = f"Save the state of `{scaler}` too (and load it where the optimizer's is loaded)"
    return Fix(message, (edit,), Safety.SAFE)


def _entry(module: Module, holder: ast.Dict, taken: ast.Call, scaler: str) -> Edit | None:
    """One more entry of `{"optimizer": optimizer.state_dict()}`."""
    key = holder.keys[holder.values.index(taken)]
    keys = [each.value for each in holder.keys if isinstance(each, ast.Constant)]
    if not isinstance(key, ast.Constant) or KEY in keys:
        return None
    mark = module.source(key)[-1]
    added = f"{mark}{KEY}{mark}: {scaler}.state_dict()"
    _, end = module.range(taken)
    start, _ = module.range(key)
    first, _ = module.line_range(key.lineno)
    _, last = module.line_range(taken.end_lineno or taken.lineno)
    before, after = module.text[first:start], module.text[end:last].strip()
    if before.strip():
        return Edit(end, end, ", " + added)
    gap = f",{module.newline}{before}"
    if after not in (",", ""):  # a comment that belongs to the optimizer's line
        return Edit(start, start, added + gap)
    return Edit(end, end, gap + added)


def _item(module: Module, holder: ast.Assign, target: ast.expr, scaler: str) -> Edit | None:
    """One more line below `checkpoint["optimizer"] = optimizer.state_dict()`."""
    if not isinstance(target, ast.Subscript) or not isinstance(target.slice, ast.Constant):
        return None
    mark = module.source(target.slice)[-1]
    checkpoint = f"{module.source(target.value)}[{mark}{KEY}{mark}]"
    if checkpoint in module.text:
        return None
    return insert_after(module, holder, f"{checkpoint} = {scaler}.state_dict()")


def _there(module: Module, node: ast.AST, scaler: str) -> bool:
    """Whether `scaler` is sure to be a GradScaler at `node`, as the text alone shows."""
    if scaler.startswith("self.") and scaler.count(".") == 1:
        owner = _around(module, node, ast.ClassDef)
        body = owner.body if isinstance(owner, ast.ClassDef) else []
        makers = [s for s in body if isinstance(s, ast.FunctionDef) and s.name == "__init__"]
        return any(_builds(s, scaler) for maker in makers for s in maker.body)
    if not scaler.isidentifier():
        return False
    function = _around(module, node, ast.FunctionDef)
    if isinstance(function, ast.FunctionDef):
        if any(_builds(s, scaler) for s in function.body):
            return True
        if scaler in {a.arg for a in walk(function.args) if isinstance(a, ast.arg)}:
            return _steps(function, scaler)
        if any(n.id == scaler and isinstance(n.ctx, ast.Store) for n in _names(function)):
            return False
    return any(_builds(s, scaler) for s in module.tree.body)


def _around(module: Module, node: ast.AST, kind: type[ast.AST]) -> ast.AST | None:
    while node in module.parents:
        node = module.parents[node]
        if isinstance(node, kind):
            return node
    return None


def _names(node: ast.AST) -> list[ast.Name]:
    return [each for each in walk(node) if isinstance(each, ast.Name)]


def _builds(statement: ast.stmt, scaler: str) -> bool:
    """`scaler = GradScaler(...)`, without a condition."""
    return (
        isinstance(statement, ast.Assign)
        and [ast.unparse(target) for target in statement.targets] == [scaler]
        and isinstance(statement.value, ast.Call)
        and ast.unparse(statement.value.func).endswith("GradScaler")
    )


def _steps(function: ast.FunctionDef, scaler: str) -> bool:
    """Whether a function steps the scaler it is given, and never asks whether there is one."""
    asked = [n.test for n in walk(function) if isinstance(n, (ast.If, ast.IfExp, ast.While))]
    if any(name.id == scaler for test in asked for name in _names(test)):
        return False
    return any(
        isinstance(n, ast.Attribute) and n.attr == "step" and ast.unparse(n.value) == scaler
        for n in walk(function)
    )

"""Whether a name is sure to be a GradScaler at a place, as the text alone shows."""

from __future__ import annotations

import ast

from mpaudit.source.text.module import Module
from mpaudit.source.text.walk import walk


def there(module: Module, node: ast.AST, scaler: str) -> bool:
    """Whether `scaler` is sure to be a GradScaler at `node`, or by the time that it is reached."""
    if scaler.startswith("self.") and scaler.count(".") == 1:
        owner = around(module, node, ast.ClassDef)
        body = owner.body if isinstance(owner, ast.ClassDef) else []
        makers = [s for s in body if isinstance(s, ast.FunctionDef) and s.name == "__init__"]
        return any(_builds(s, scaler) for maker in makers for s in maker.body)
    if not scaler.isidentifier():
        return False
    function = around(module, node, ast.FunctionDef)
    if isinstance(function, ast.FunctionDef):
        if any(_builds(s, scaler) for s in function.body):
            return True
        if scaler in {a.arg for a in walk(function.args) if isinstance(a, ast.arg)}:
            return _steps(function, scaler)
        if any(n.id == scaler and isinstance(n.ctx, ast.Store) for n in _names(function)):
            return False
    return any(_builds(s, scaler) for s in module.tree.body)


def made_before(module: Module, node: ast.stmt, scaler: str) -> bool:
    """Whether `scaler`, which is `there`, has been made when `node` is reached."""
    function = around(module, node, ast.FunctionDef)
    if not scaler.startswith("self."):
        spec = function.args if isinstance(function, ast.FunctionDef) else None
        if spec is not None and scaler in {a.arg for a in walk(spec) if isinstance(a, ast.arg)}:
            return True
        body = function.body if isinstance(function, ast.FunctionDef) else module.tree.body
        return any(_builds(s, scaler) and s.lineno < node.lineno for s in body)
    owner = around(module, node, ast.ClassDef)
    if not isinstance(function, ast.FunctionDef) or not isinstance(owner, ast.ClassDef):
        return False
    name = function.name
    for maker in owner.body:
        if isinstance(maker, ast.FunctionDef) and maker.name == "__init__":
            built = [s.lineno for s in maker.body if _builds(s, scaler)]
            called = [
                n.lineno for n in walk(maker) if isinstance(n, ast.Attribute) and n.attr == name
            ]
            reached = [node.lineno] if maker is function else called
            return bool(built) and all(row > built[0] for row in reached)
    return False


def around(module: Module, node: ast.AST, kind: type[ast.AST]) -> ast.AST | None:
    """The innermost node of a kind that `node` stands in."""
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

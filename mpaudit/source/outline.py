"""What a file mentions where, gathered in one walk: enough to judge whether its code matters."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from mpaudit.source.module import Module

HELD = "(calls what it holds)"
"""Stands for a call of a parameter, or of an object stored in an attribute: it may be a model."""


@dataclass(slots=True)
class Outline:
    """The names a file's parts mention.

    `functions` and `classes` map a name to all that is mentioned inside (of a class: its methods and
    bases); `assigned` maps the variables of the module body to what their values mention; `imports`
    are all `from ... import` statements.
    """

    functions: dict[str, set[str]] = field(default_factory=dict)
    classes: dict[str, set[str]] = field(default_factory=dict)
    assigned: dict[str, set[str]] = field(default_factory=dict)
    imports: list[ast.ImportFrom] = field(default_factory=list)
    modules: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    called: dict[str, set[str]] = field(default_factory=dict)


def outline(module: Module) -> Outline:
    """Walk a file once."""
    found = Outline()
    _visit(module.tree, [], found)
    for statement in module.tree.body:
        if isinstance(statement, ast.Assign):
            mentioned = _names(statement.value)
            for target in statement.targets:
                for name in _names(target):
                    found.assigned.setdefault(name, set()).update(mentioned)
    for name, attributes in found.called.items():
        if attributes & found.stored:
            found.functions[name].add(HELD)
    return found


def _visit(node: ast.AST, inside: list[tuple[str, set[str], set[str]]], found: Outline) -> None:
    """`inside` are the functions around: name, mentioned names, parameters."""
    if isinstance(node, ast.Name):
        for _, names, _ in inside:
            names.add(node.id)
    elif isinstance(node, ast.Attribute):
        for _, names, _ in inside:
            names.add(node.attr)
        if isinstance(node.ctx, ast.Store):
            found.stored.add(node.attr)
    elif isinstance(node, ast.Call):
        _note_call(node.func, inside, found)
    elif isinstance(node, ast.ImportFrom):
        found.imports.append(node)
    elif isinstance(node, ast.Import):
        found.modules |= {alias.name.partition(".")[0] for alias in node.names}
    elif isinstance(node, ast.ClassDef):
        bases = set().union(*map(_names, node.bases))
        found.classes.setdefault(node.name, set()).update(bases | _methods(node))
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        spec = node.args
        parameters = {a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)}
        names = found.functions.setdefault(node.name, set())
        inside = [*inside, (node.name, names, parameters)]
    for child in ast.iter_child_nodes(node):
        _visit(child, inside, found)


def _note_call(
    function: ast.expr, inside: list[tuple[str, set[str], set[str]]], found: Outline
) -> None:
    for name, names, parameters in inside:
        if isinstance(function, ast.Name) and function.id in parameters:
            names.add(HELD)
        elif isinstance(function, ast.Attribute):
            found.called.setdefault(name, set()).add(function.attr)


def _methods(node: ast.ClassDef) -> set[str]:
    return {s.name for s in node.body if isinstance(s, ast.FunctionDef | ast.AsyncFunctionDef)}


def _names(node: ast.AST) -> set[str]:
    attributes = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    return attributes | {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}

"""Calls of a loop with a gradient tape, as repairs look for them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from mpaudit.finding import Problem
from mpaudit.source.text.module import Module
from mpaudit.source.text.walk import walk


def related_call(module: Module, problem: Problem, message: str) -> ast.Call | None:
    """The call in this file that a problem's related place with this message points to."""
    for related in problem.related:
        if related.message == message and related.span.filename == module.filename:
            node = module.node_at(related.span, ast.Call)
            return node if isinstance(node, ast.Call) else None
    return None


def function_around(module: Module, node: ast.AST) -> ast.AST:
    """The innermost function around a node, else the module."""
    while node in module.parents:
        node = module.parents[node]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            break
    return node


def calls_of(inside: ast.AST, name: str) -> Iterator[ast.Call]:
    """The calls of a function or method of that name."""
    for node in walk(inside):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else None
            if name == (node.func.id if isinstance(node.func, ast.Name) else called):
                yield node


def receiver(call: ast.Call) -> str:
    """What a method is called on."""
    return ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""


def conditions(module: Module, node: ast.AST) -> set[int]:
    """The conditions that a node stands under, in its function."""
    found = set()
    while node in module.parents:
        node = module.parents[node]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            break
        if isinstance(node, (ast.If, ast.IfExp, ast.While, ast.For, ast.Try, ast.BoolOp)):
            found.add(id(node))
    return found


def many(taken: ast.Call) -> bool:
    """Whether a tape is asked for the gradients of a list of variables."""
    sources = next((k.value for k in taken.keywords if k.arg == "sources"), None)
    if len(taken.args) > 1:
        sources = taken.args[1]
    if sources is None:
        return False
    text = ast.unparse(sources).lower()
    return isinstance(sources, ast.List) or text.endswith(
        ("variables", "weights", "vars", "params")
    )


def inside(outer: ast.AST, inner: ast.AST) -> bool:
    """Whether one node is part of another."""
    return any(node is inner for node in walk(outer))


def assigned(module: Module, taken: ast.Call) -> str | None:
    """The name that the gradients of a tape get."""
    match module.statement(taken):
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if value is taken:
            return name
    return None

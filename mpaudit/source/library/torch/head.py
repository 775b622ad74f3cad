"""The layers that a model's outputs come out of, where its `forward` is not worth following.

Read off the text of `forward`: the layer is what `self` holds under the name that is called last.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.source.engine.path import lookup
from mpaudit.source.engine.values import Class, Const, External, Function, Pack, Thing, Value
from mpaudit.source.library.torch.dtypes import Kind, kind_of_layer, kind_of_operation
from mpaudit.source.text.walk import walk

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path

MAX_NESTING = 6
INSIDE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
BLOCKS = (ast.stmt, ast.ExceptHandler, ast.match_case)
"""What statements are in."""


def head(model: Thing, path: Path, nesting: int = 0) -> Value | None:
    """The last layer of a model of the project, a Pack of layers where it returns several things.

    None where it is not certain which one it is; in a Pack, such an item is the model itself.
    """
    owner = path.known(model, "@class")
    forward = lookup(path, owner, "forward") if isinstance(owner, Class) else None
    if not isinstance(forward, Function) or nesting > MAX_NESTING:
        return None
    return _Forward(model, path, nesting).returned(forward)


class _Forward:
    """A look at the methods of one model."""

    def __init__(self, model: Thing, path: Path, nesting: int) -> None:
        self.model = model
        self.path = path
        self.nesting = nesting

    def returned(self, function: Function) -> Value | None:
        """The layer behind what a method returns, if all its ways out agree in it."""
        if isinstance(function.node, ast.Lambda):
            return None
        ways = _returns(function.node)
        found = {self._behind(way.value, way, function) for way in ways if way.value is not None}
        return found.pop() if len(found) == 1 else None

    def _behind(self, node: ast.expr, at: ast.stmt, function: Function) -> Value | None:
        match node:
            case ast.Tuple(elts=elements):
                layers = [self._behind(each, at, function) for each in elements]
                return Pack(tuple(layer or self.model for layer in layers))
            case ast.Name(id=name):
                before = _bound(name, at, function)
                value = getattr(before, "value", None)
                return self._behind(value, before, function) if before and value else None
            case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=name), args=args):
                return self._called(name, args, at, function)
            case ast.Call(func=ast.Attribute(value=value, attr=name), args=args):
                if kind_of_operation(name) is not Kind.KEEP:
                    return None
                given = args[:1] if self._library(value, function) else [value]
                return self._behind(given[0], at, function) if given else None
        return None

    def _called(
        self, name: str, args: list[ast.expr], at: ast.stmt, function: Function
    ) -> Value | None:
        held = self.path.heap.get((self.model.uid, name))
        if isinstance(held, Thing) and held.kind == "Module":
            layer = self.path.known(held, "@layer")
            if not isinstance(layer, Const):
                return head(held, self.path, self.nesting + 1)
            if kind_of_layer(str(layer.value)) is Kind.KEEP:
                return self._behind(args[0], at, function) if args else None
            return held
        owner = self.path.known(self.model, "@class")
        method = lookup(self.path, owner, name) if isinstance(owner, Class) else None
        if held is None and isinstance(method, Function) and self.nesting < MAX_NESTING:
            return _Forward(self.model, self.path, self.nesting + 1).returned(method)
        return None

    def _library(self, node: ast.expr, function: Function) -> bool:
        """Whether an expression is a module of a library, whose functions are given the tensor."""
        while isinstance(node, ast.Attribute):
            node = node.value
        if not isinstance(node, ast.Name):
            return False
        found = (self.path.heap.get((scope, node.id)) for scope in function.scopes)
        return isinstance(next((each for each in found if each is not None), None), External)


def _returns(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.Return]:
    """The `return` statements of a function without those of the functions in it."""
    found: list[ast.Return] = []
    waiting: list[ast.AST] = [*function.body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Return):
            found.append(node)
        elif not isinstance(node, INSIDE):
            parts = ast.iter_child_nodes(node)
            waiting += [part for part in parts if isinstance(part, BLOCKS)]
    return found


def _bound(name: str, at: ast.stmt, function: Function) -> ast.Assign | None:
    """The plain assignment that a name certainly comes from at a statement, in the same block."""
    parent = function.module.parents[at]
    body = next(
        (b for field in ("body", "orelse") if at in (b := getattr(parent, field, None) or [])), []
    )
    for statement in reversed(body[: body.index(at)] if at in body else []):
        if not any(isinstance(n, ast.Name) and n.id == name for n in _stored(statement)):
            continue
        plain = isinstance(statement, ast.Assign) and len(statement.targets) == 1
        return statement if plain and isinstance(statement.targets[0], ast.Name) else None
    return None


def _stored(statement: ast.stmt) -> list[ast.Name]:
    return [
        node
        for node in walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]

"""What a program does with a name at the place where it reads it."""

from __future__ import annotations

import ast
from enum import Enum, auto
from typing import TYPE_CHECKING

from mpaudit.source.text.names import Names

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module


class Place(Enum):
    """The role of an expression in what surrounds it."""

    CALL = auto()  # it is called
    PARTIAL = auto()  # functools.partial calls it later
    TYPE = auto()  # an annotation, or the second argument of isinstance
    TEST = auto()  # compared with None, or true or false
    BASE = auto()  # a class derives from it
    ALIAS = auto()  # a plain name is given to it
    DECORATOR = auto()  # it decorates, without being called
    MEMBER = auto()  # an attribute of it is taken
    VALUE = auto()  # anything else


def root_of(node: ast.AST) -> ast.Name:
    """The name that a dotted expression starts with."""
    while isinstance(node, ast.Attribute):
        node = node.value
    if not isinstance(node, ast.Name):
        raise TypeError("not a dotted name")
    return node


def place_of(node: ast.expr, module: Module) -> Place:
    """What is done with `node`."""
    names = Names.of(module)
    parent = module.parents[node]
    match parent:
        case ast.Call() if parent.func is node:
            return Place.CALL
        case ast.Call(args=[one, *_]) if one is node:
            if names.resolve(parent.func) == "functools.partial":
                return Place.PARTIAL
        case ast.ClassDef() if node in parent.bases:
            return Place.BASE
        case ast.FunctionDef() | ast.AsyncFunctionDef() if node in parent.decorator_list:
            return Place.DECORATOR
        case ast.Assign(targets=[ast.Name() as target]):
            if names.resolve(target) == names.resolve(node):
                return Place.ALIAS
        case ast.Attribute():
            return Place.MEMBER
        case ast.If() | ast.IfExp() | ast.While() if parent.test is node:
            return Place.TEST
        case ast.Compare() if any(_is_none(e) for e in [parent.left, *parent.comparators]):
            return Place.TEST
        case ast.UnaryOp(op=ast.Not()):
            return Place.TEST
    return Place.TYPE if _is_type(node, module, names) else Place.VALUE


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_type(node: ast.AST, module: Module, names: Names) -> bool:
    child, parent = node, module.parents[node]
    while isinstance(parent, (ast.Tuple, ast.List, ast.BinOp, ast.Subscript)):
        if isinstance(parent, ast.Subscript):
            kind = names.resolve(parent.value) or ""
            if kind.startswith(("typing.", "typing_extensions.")):
                return True
        child, parent = parent, module.parents[parent]
    match parent:
        case ast.arg() | ast.AnnAssign():
            return parent.annotation is child
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return parent.returns is child
        case ast.Call(args=[_, kinds]) if kinds is child:
            return names.resolve(parent.func) in {"builtins.isinstance", "builtins.issubclass"}
        case ast.Call(args=[kind_, _]) if kind_ is child:
            return names.resolve(parent.func) == "typing.cast"
    return False

"""Attributes that only `__init__` sets, so that to read one says which way it went there."""

from __future__ import annotations

import ast
from functools import lru_cache
from typing import TYPE_CHECKING

from mpaudit.source.path import UNSET, Path, lookup
from mpaudit.source.values import Choice, Class, External, Thing, Value
from mpaudit.source.walk import children

if TYPE_CHECKING:
    from mpaudit.source.logic import Logic
    from mpaudit.source.module import Module

BASES = frozenset(
    ["builtins.object", "torch.nn.Module", "torch.nn.modules.module.Module", "abc.ABC"]
)
"""Classes of libraries that give their instances no attributes but their own."""
_ANY = "*"
"""Stands for attributes whose names nobody can read in the text."""
_BY_NAME = frozenset(["__getattr__", "__getattribute__", "__setattr__", "__dict__"])
"""What makes attributes of names that are not written as such."""


def in_place(
    base: Thing, name: str, value: Value, node: ast.expr, path: Path, logic: Logic
) -> Value:
    """What an attribute holds that is set on some ways: on no others, or the script would have died.

    Not so one that may have been set later, or that its class has for all, nor for `getattr`, which may
    have another value for it. `node` is the place that reads it; what follows of it goes to `path`.
    """
    owner = path.known(base, "@class")
    if not isinstance(owner, Class) or not isinstance(node, ast.Attribute):
        return value
    if lookup(path, owner, name) is not None:
        return value
    while isinstance(value, Choice) and UNSET in (value.yes, value.no):
        known = logic.truth(value.condition, path)
        if known is None:
            if not _set_at_first(owner, name) or _is_tried(node, path.frame.module):
                break
            known = path.facts[value.condition] = value.no == UNSET
        value = value.yes if known else value.no
    return value


def _set_at_first(owner: Class, name: str) -> bool:
    """Whether an attribute of a class' instances is set in `__init__`, or never."""
    for base in owner.bases:
        if isinstance(base, Class):
            if base.uid == owner.uid or not _set_at_first(base, name):
                return False
        elif not isinstance(base, External) or base.name not in BASES:
            return False
    return _set_later(owner.module).isdisjoint((name, _ANY))


@lru_cache(maxsize=256)
def _set_later(module: Module) -> frozenset[str]:
    """The attributes that a file sets, or deletes, outside of any `__init__`."""
    found: set[str] = set()
    waiting: list[tuple[ast.AST, bool]] = [(module.tree, False)]
    while waiting:
        node, first = waiting.pop()
        if isinstance(node, ast.FunctionDef):
            first = first or node.name == "__init__"
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            if not first:
                found.add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("setattr", "delattr"):
            found.add(_named(node))
        if _name(node) in _BY_NAME:
            found.add(_ANY)
        waiting += [(child, first) for child in children(node)]
    return frozenset(found)


def _is_tried(node: ast.AST, module: Module) -> bool:
    """Whether something is there, in the function around, for the case that a read fails."""
    above = module.parents.get(node)
    while above is not None and not isinstance(above, (ast.FunctionDef, ast.Lambda)):
        if isinstance(above, ast.Try) and above.handlers and node in above.body:
            return True
        node, above = above, module.parents.get(above)
    return False


def _named(call: ast.Call) -> str:
    """The attribute that `setattr(x, "name", ...)` sets."""
    key = call.args[1] if len(call.args) > 1 else None
    return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else _ANY


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.name if isinstance(node, ast.FunctionDef) else ""

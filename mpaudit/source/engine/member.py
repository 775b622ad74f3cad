"""Attributes that only `__init__` sets, and those that it leaves to other methods.

To read one of the first says which way it went in `__init__`. Of the others nothing is known in an object
that was made and set up where nobody looked.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.source.engine.path import UNSET, Path, lookup
from mpaudit.source.engine.values import NONE, Choice, Class, External, Thing, Value
from mpaudit.source.text.memo import by_node, for_a_while
from mpaudit.source.text.walk import children, walk

if TYPE_CHECKING:
    from mpaudit.source.engine.logic import Logic
    from mpaudit.source.text.module import Module

BASES = frozenset(
    ["builtins.object", "torch.nn.Module", "torch.nn.modules.module.Module", "abc.ABC"]
)
"""Classes of libraries that give their instances no attributes but their own."""
ANY = "*"
"""Stands for attributes whose names nobody can read in the text."""
BY_NAME = frozenset(["__getattr__", "__getattribute__", "__setattr__", "__dict__"])
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
    return _set_later(owner.module).isdisjoint((name, ANY))


def left_open(instance: Thing, owner: Class, path: Path) -> frozenset[str]:
    """The attributes that are None once an object is made, and that methods of its class set later."""
    later: set[str] = set()
    waiting, seen = [owner], set[int]()
    while waiting:
        each = waiting.pop()
        if each.uid not in seen:
            seen.add(each.uid)
            later |= _set_by_methods(each.node)
            waiting += [base for base in each.bases if isinstance(base, Class)]
    held = ((n, path.heap.get((instance.uid, n)) or lookup(path, owner, n)) for n in later)
    return frozenset(name for name, value in held if value == NONE)


@by_node
def _set_by_methods(owner: ast.ClassDef) -> frozenset[str]:
    """The attributes of its own object that the methods of a class set to anything but None."""
    found: set[str] = set()
    for method in owner.body:
        if isinstance(method, ast.FunctionDef) and method.name != "__init__":
            first = next(iter((*method.args.posonlyargs, *method.args.args)), None)
            for node in walk(method) if first is not None else ():
                if isinstance(node, (ast.Assign, ast.AnnAssign)) and not _is_none(node.value):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    held = [each for target in targets for each in walk(target)]
                    found.update(
                        each.attr
                        for each in held
                        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)
                        if first is not None and getattr(each.value, "id", None) == first.arg
                    )
    return frozenset(found)


def _is_none(node: ast.expr | None) -> bool:
    return node is None or (isinstance(node, ast.Constant) and node.value is None)


@for_a_while(256)
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
            found.add(named(node))
        if name_of(node) in BY_NAME:
            found.add(ANY)
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


def named(call: ast.Call) -> str:
    """The attribute that `setattr(x, "name", ...)` sets."""
    key = call.args[1] if len(call.args) > 1 else None
    return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else ANY


def name_of(node: ast.AST) -> str:
    """The name that a node reads, or that a `def` gives; "" for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.name if isinstance(node, ast.FunctionDef) else ""

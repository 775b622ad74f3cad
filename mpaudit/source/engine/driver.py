"""The methods that drive others: what a class inherits, and from where what it overrides is called.

A trainer overrides `train_step`, and the loop around it is in a base class, often in another file.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator

from mpaudit.source.engine.values import Class
from mpaudit.source.text.memo import by_node
from mpaudit.source.text.walk import walk

AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef
MAX_DRIVERS = 2
"""So many methods of a class are entered for what it overrides."""


def drivers(owner: Class, overriding: Collection[str]) -> list[str]:
    """The inherited methods, called by none of them, that lead to the methods `overriding` of a class."""
    own = {node.name for node in owner.node.body if isinstance(node, AnyFunction)}
    inherited: dict[str, frozenset[str]] = {}
    for node in _inherited(owner, frozenset()):
        if node.name not in own and not node.name.startswith("__"):
            inherited.setdefault(node.name, _called(node))
    reaching: dict[str, None] = {}
    wanted = set(overriding)
    while True:
        more = [
            name for name, calls in inherited.items() if name not in reaching and calls & wanted
        ]
        if not more:
            break
        reaching.update(dict.fromkeys(more))
        wanted.update(more)
    outermost = [
        name
        for name in inherited
        if name in reaching
        and not any(name in inherited[other] for other in reaching if other != name)
    ]
    return outermost[:MAX_DRIVERS]


def _inherited(owner: Class, seen: frozenset[int]) -> Iterator[AnyFunction]:
    """The methods of the bases in the project, the nearest first."""
    for base in owner.bases:
        if isinstance(base, Class) and base.uid not in seen:
            yield from (node for node in base.node.body if isinstance(node, AnyFunction))
            yield from _inherited(base, seen | {owner.uid})


@by_node
def _called(function: AnyFunction) -> frozenset[str]:
    """The names of the methods that a method takes of its own object, to call them or hand them on.

    What is only asked for its parameters, as in `inspect.signature(self.forward)`, is not called there.
    """
    spec = function.args
    first = [*spec.posonlyargs, *spec.args][:1]
    asked = {
        given
        for node in walk(function)
        if isinstance(node, ast.Call) and _name(node.func) == "signature"
        for given in node.args
    }
    return frozenset(
        node.attr
        for node in walk(function)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if first and node.value.id == first[0].arg and node not in asked
    )


def _name(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")

"""What a look at a node tells, remembered for as long as the node is there."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

N = TypeVar("N", bound=ast.AST)
T = TypeVar("T")


def by_node(look: Callable[[N], T]) -> Callable[[N], T]:
    """Have a function look at each node once; it must return nothing that holds the node.

    A cache of a certain size would keep the trees of files that nobody asks for any more.
    """
    known: WeakKeyDictionary[ast.AST, T] = WeakKeyDictionary()

    @wraps(look)
    def told(node: N) -> T:
        try:
            return known[node]
        except KeyError:
            found = known[node] = look(node)
            return found

    return told

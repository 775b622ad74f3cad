"""What a look at a node tells, remembered for as long as the node is there, or until it is forgotten."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

N = TypeVar("N", bound=ast.AST)
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
_passing: list[Callable[[], None]] = []
"""What clears each of the caches that hold nodes."""


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


def for_a_while(size: int) -> Callable[[F], F]:
    """Have a function remember its last results, with the nodes that it was given, until `forget`."""

    def remembering(look: F) -> F:
        cached = lru_cache(maxsize=size)(look)
        _passing.append(cached.cache_clear)
        return cached  # type: ignore[return-value]

    return remembering


def forget() -> None:
    """Let go of the nodes of files that nobody asks for any more; what they tell can be told again."""
    for clear in _passing:
        clear()

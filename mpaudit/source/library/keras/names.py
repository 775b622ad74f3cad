"""Summaries for all the names that Keras goes by, and what they are given."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from mpaudit.source.api.keras_names import everywhere
from mpaudit.source.engine.registry import Summary, function
from mpaudit.source.engine.values import Choice, Const, Pack, Thing, Value
from mpaudit.source.library.keras.values import Tensor, left

if TYPE_CHECKING:
    import ast

    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call


def keras(*names: str) -> Callable[[Summary], Summary]:
    """Register a summary for functions or classes of Keras; "layers.*" stands for all below."""
    return function(*everywhere(*names))


def text(value: Value | None) -> str | None:
    """The string that a value is, None if it is none or not known."""
    return value.value if isinstance(value, Const) and isinstance(value.value, str) else None


@lru_cache(maxsize=4096)
def site(node: ast.AST, label: str) -> ast.Name:
    """A place of its own for a call that a library makes on behalf of the call `node`."""
    import ast

    return ast.copy_location(ast.Name(id=f"{label} of {id(node)}", ctx=ast.Load()), node)


def flat(value: Value | None, path: Path) -> list[Value]:
    """A value, or the known items of a container."""
    if isinstance(value, Pack):
        return [part for item in value.items for part in flat(item, path)]
    if isinstance(value, Thing) and value.kind in ("list", "dict"):
        items = path.known(value, "@items")
        if isinstance(items, Pack):
            return flat(items, path)
    return [] if value is None else [value]


def computed(call: Call, *sources: Value) -> Thing:
    """A new tensor that Keras computes from `sources`."""
    return left(call, call.made(), Tensor(sources))


def settled(call: Call, value: Value | None) -> Value | None:
    """What a Choice is on this path; None where its condition is open."""
    found = call.engine.logic.settled(value, call.path)
    return None if isinstance(found, Choice) else found

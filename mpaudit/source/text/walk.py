"""Walking a syntax tree, in the order of the text and without what only says how a name is used."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

_PLAIN = {
    *("ctx", "op", "ops", "type_comment", "kind", "is_async", "simple", "conversion"),
    *("id", "attr", "arg", "name", "asname", "module", "level", "rest", "kwd_attrs", "str"),
}
"""Fields that hold no node, or one without a place of its own."""


def _parts(kind: type[ast.AST]) -> tuple[str, ...]:
    if kind in (ast.Constant, ast.Global, ast.Nonlocal, ast.MatchSingleton):  # True, a name
        return ()
    return tuple(name for name in kind._fields if name not in _PLAIN)


_BLOCKS = ("body", "cases", "handlers", "orelse", "finalbody")
"""Fields of statements that hold statements, or what holds them, in the order of the text."""

_FIELDS: dict[type[ast.AST], tuple[str, ...]] = {
    kind: _parts(kind)
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}


def _reader(names: tuple[str, ...]) -> Callable[[ast.AST], tuple[Any, ...]] | None:
    """Reads fields of a node, all at once."""
    if not names:
        return None
    read = attrgetter(*names)
    return read if len(names) > 1 else lambda node: (read(node),)


_READ = {kind: _reader(names) for kind, names in _FIELDS.items()}
"""What reads the parts of a node of a kind, None where it has none."""


def same_fields(kind: type[ast.AST], other: type[ast.AST]) -> None:
    """Have nodes of a kind of our own walked like those of another."""
    _READ[kind] = _READ[other]


def children(node: ast.AST) -> list[ast.AST]:
    """The direct parts of a node, operators and contexts (`Load`, `Add`) apart."""
    read = _READ[type(node)]
    found: list[ast.AST] = []
    for value in read(node) if read is not None else ():
        if type(value) is not list:
            if value is not None:
                found.append(value)
        elif None in value:  # what is left out: `{**x}`, a parameter without a default
            found += [each for each in value if each is not None]
        else:
            found += value
    return found


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, each before its parts, in the order of the text."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        yield found
        if _READ[type(found)] is not None:  # half of all nodes are names and literals
            parts = children(found)
            parts.reverse()
            waiting += parts


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """All statements below a node, in the order of the text; expressions, which hold none, are passed by."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        if isinstance(found, ast.stmt):
            yield found
        waiting += blocks(found)


def blocks(node: ast.AST) -> Iterator[ast.AST]:
    """What the blocks of a node hold, the last first."""
    for name in reversed(_BLOCKS):
        yield from reversed(getattr(node, name, ()))

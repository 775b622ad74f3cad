"""Walking a syntax tree, in the order of the text and without what only says how a name is used."""

from __future__ import annotations

import ast
from collections.abc import Iterator

_PLAIN = {
    *("ctx", "op", "ops", "type_comment", "kind", "is_async", "simple", "conversion"),
    *("id", "attr", "arg", "name", "asname", "module", "level"),
}
"""Fields that hold no node, or one without a place of its own."""


def _parts(kind: type[ast.AST]) -> tuple[str, ...]:
    if kind is ast.Constant:
        return ()
    return tuple(name for name in kind._fields if name not in _PLAIN)


_BLOCKS = ("body", "cases", "handlers", "orelse", "finalbody")
"""Fields of statements that hold statements, or what holds them, in the order of the text."""

_FIELDS: dict[type[ast.AST], tuple[str, ...]] = {
    kind: _parts(kind)
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}


def children(node: ast.AST) -> list[ast.AST]:
    """The direct parts of a node, operators and contexts (`Load`, `Add`) apart."""
    found: list[ast.AST] = []
    for name in _FIELDS[type(node)]:
        value = getattr(node, name, None)
        if isinstance(value, list):
            found += [each for each in value if isinstance(each, ast.AST)]
        elif isinstance(value, ast.AST):
            found.append(value)
    return found


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, each before its parts, in the order of the text."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        yield found
        if _FIELDS[type(found)]:  # half of all nodes are names and literals
            waiting += reversed(children(found))


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """All statements below a node, in the order of the text; expressions, which hold none, are passed by."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        if isinstance(found, ast.stmt):
            yield found
        for name in reversed(_BLOCKS):
            waiting += reversed(getattr(found, name, ()))

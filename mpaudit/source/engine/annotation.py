"""What the annotation of a parameter states, where nobody has seen what is handed in."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.source.engine import registry
from mpaudit.source.engine.binding import Enter
from mpaudit.source.engine.path import Fork, Path
from mpaudit.source.engine.values import NONE, Choice, External, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls

OPTIONAL = ("typing.Optional", "typing.Union")


def stated(engine: Calls, given: Thing, annotation: ast.expr, path: Path) -> Value:
    """What is given, of the kind that is stated; it may be None where the annotation says so."""
    kinds: set[str | None] = set(_kinds(engine, annotation, path))
    kind = next(iter(kinds - {None}), "")
    if len(kinds - {None}) != 1 or not kind:
        return given
    made = Thing(given.uid, kind)
    return Choice(engine.term("is None", given), NONE, made) if None in kinds else made


def _kinds(engine: Calls, annotation: ast.expr, path: Path) -> list[str | None]:
    """The kinds that an annotation names: "" for any other, None for None."""
    if isinstance(annotation, ast.Constant):
        if annotation.value is None:
            return [None]
        if not isinstance(annotation.value, str):
            return [""]
        try:
            inner = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return [""]
        return [""] if isinstance(inner, ast.Constant) else _kinds(engine, inner, path)
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        sides = (annotation.left, annotation.right)
        return [kind for each in sides for kind in _kinds(engine, each, path)]
    if isinstance(annotation, ast.Subscript):
        around = _named(engine, annotation.value, path)
        if around not in OPTIONAL:
            return [""]
        inner = annotation.slice
        parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        found = [kind for each in parts for kind in _kinds(engine, each, path)]
        return [*found, None] if around == OPTIONAL[0] else found
    name = _named(engine, annotation, path)
    return [registry.stated_kind(name) if name is not None else ""]


def _named(engine: Calls, annotation: ast.expr, path: Path) -> str | None:
    """The dotted name of what an annotation names in a library."""
    if not isinstance(annotation, (ast.Name, ast.Attribute)):
        return None
    try:
        found = engine.evaluate(annotation, path)
    except (Enter, Fork):  # it depends on what is not known here: no statement
        return None
    return found.name if isinstance(found, External) else None

"""Texts that a program puts together: with the same values in it, an f-string is the same text."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.source.engine.values import Const, Value

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path

HOLE = "{}"
"""What stands in a text for a value that is not known."""


def joined(engine: Calls, node: ast.JoinedStr, path: Path) -> Value | None:
    """The text of an f-string, by what stands in it; None where a value is formatted."""
    text = ""
    values: list[Value] = []
    for part in node.values:
        if not isinstance(part, ast.FormattedValue):
            text += str(part.value) if isinstance(part, ast.Constant) else HOLE
            continue
        if part.format_spec is not None or part.conversion != -1:
            return None
        value = engine.evaluate(part.value, path)
        if isinstance(value, Const) and isinstance(value.value, (str, int)):
            text += str(value.value)
        else:
            text += HOLE
            values.append(value)
    if not values:
        return Const(text)
    made = engine.term("text", Const(text), *values)
    begins = text.partition(HOLE)[0]
    return path.learn(made, begins=Const(begins)) if begins else made

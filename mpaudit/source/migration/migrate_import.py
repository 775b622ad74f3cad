"""Edits of import statements: names move from one module to another, the rest of the text stays."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from mpaudit.fix import Edit
from mpaudit.source.text.argument import UnrepairableError
from mpaudit.source.text.new_line import add_after

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

_COMMA = re.compile(r"\s*,")


def replace_module(module: Module, statement: ast.ImportFrom, new: str) -> Edit:
    """`from old import ...` becomes `from new import ...`."""
    start, end = module.range(statement)
    match = re.compile(r"from\s+([\w.]+)\s+import\b").match(module.text, start, end)
    if match is None or match[1] != statement.module:
        raise UnrepairableError("its import is written in an unusual way", statement)
    return Edit(*match.span(1), new)


def replace_dotted(module: Module, alias: ast.alias, new: str) -> Edit:
    """`import old as x` becomes `import new as x`; in a `from` import, the name itself."""
    start, _ = module.range(alias)
    if not module.text.startswith(alias.name, start):
        raise UnrepairableError("its import is written in an unusual way", alias)
    return Edit(start, start + len(alias.name), new)


def move(module: Module, statement: ast.ImportFrom, moved: list[ast.alias], new: str) -> list[Edit]:
    """Take some names out of a `from` import and import them from the module `new`.

    They join an import from `new` that stands before in the same block, if both fill one line; else
    the statement is rewritten, or a line is added below it.
    """
    names = ", ".join(module.source(each) for each in moved)
    home = _neighbour(module, statement, new)
    everything = len(moved) == len(statement.names)
    if everything and home and _fills_line(module, statement):
        _, end = module.range(home)
        line = module.line_range(statement.lineno)
        return [Edit(end, end, f", {names}"), Edit(*line, "")]
    if everything:
        return [replace_module(module, statement, new)]
    removed = [_take_out(module, statement, each, moved) for each in moved]
    if home:
        _, end = module.range(home)
        return [*removed, Edit(end, end, f", {names}")]
    return [*removed, add_after(module, statement, f"from {new} import {names}")]


def _neighbour(module: Module, statement: ast.ImportFrom, new: str) -> ast.ImportFrom | None:
    """An import from `new` on one line, in the same block: before `statement`, or next to it."""
    parent = module.parents[statement]
    for block in ("body", "orelse", "finalbody"):
        statements = getattr(parent, block, None)
        if isinstance(statements, list) and statement in statements:
            here = statements.index(statement)
            for each in [*statements[:here], *statements[here + 1 : here + 2]]:
                if isinstance(each, ast.ImportFrom) and each.module == new and not each.level:
                    text = module.source(each)
                    if "(" not in text and "\\" not in text and each.names[0].name != "*":
                        return each
    return None


def _fills_line(module: Module, statement: ast.stmt) -> bool:
    start, end = module.range(statement)
    row_start, row_end = module.line_range(statement.lineno)
    around = module.text[row_start:start] + module.text[end:row_end]
    return statement.lineno == statement.end_lineno and not around.strip()


def _take_out(
    module: Module, statement: ast.ImportFrom, alias: ast.alias, moved: list[ast.alias]
) -> Edit:
    """Remove one name and one comma, but no comment."""
    names = statement.names
    index = names.index(alias)
    start, end = module.range(alias)
    if any(each not in moved for each in names[index + 1 :]):
        stretch = (start, module.range(names[index + 1])[0])
    else:
        stretch = (module.range(names[index - 1])[1], end)
    if "#" in module.text[slice(*stretch)]:
        comma = _COMMA.match(module.text, end)
        stretch = (start, comma.end() if comma else end)
    return Edit(*stretch, "")

"""Edits that add a statement on a line of its own, or an import among those of a file."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.fix import Edit
from mpaudit.source.text.argument import UnrepairableError

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module


def add_before(module: Module, statement: ast.stmt, line: str) -> Edit:
    """Put a statement on a line of its own above another one."""
    start, _ = module.line_range(statement.lineno)
    indent = module.text[start : module.range(statement)[0]]
    if indent.strip():
        raise UnrepairableError("its import shares a line", statement)
    return Edit(start + len(indent), start + len(indent), f"{line}{module.newline}{indent}")


def add_module(module: Module, name: str) -> Edit:
    """`import name` among the first imports of the file, in the order of the alphabet."""
    block = [each for each in module.tree.body if isinstance(each, (ast.Import, ast.ImportFrom))]
    block = [each for each in block if getattr(each, "module", None) != "__future__"]
    if not block:
        raise UnrepairableError("the file imports nothing at its top", module.tree)
    home = block[0]
    for each in block:
        plain = isinstance(each, ast.Import) and each.names[0].name < name
        if not plain or (each is not home and each.lineno > (home.end_lineno or 0) + 1):
            break
        home = each
    if isinstance(home, ast.Import) and home.names[0].name < name:
        return add_after(module, home, f"import {name}")
    return add_before(module, home, f"import {name}")


def add_after(module: Module, statement: ast.stmt, line: str) -> Edit:
    """Put a statement below another one, or behind it where they share a line."""
    start, end = module.range(statement)
    row_start, _ = module.line_range(statement.lineno)
    _, row_end = module.line_range(statement.end_lineno or statement.lineno)
    indent = module.text[row_start:start]
    rest = module.text[end:row_end].strip()
    if indent.strip() or (rest and not rest.startswith("#")):
        return Edit(end, end, f"; {line}")
    if module.text[row_end - 1 : row_end] in {"\n", "\r"}:
        return Edit(row_end, row_end, f"{indent}{line}{module.newline}")
    return Edit(row_end, row_end, f"{module.newline}{indent}{line}")

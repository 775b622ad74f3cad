"""Moving the statements that set the dtype policy above the model they are for."""

from __future__ import annotations

import ast
import re

from mpaudit.finding import Problem
from mpaudit.fix import Edit
from mpaudit.protocols.keras_policy_problems import BUILT
from mpaudit.source.repair.registry import alone, block_of
from mpaudit.source.text.module import Module
from mpaudit.source.text.walk import walk

_PINNED = re.compile(r"\s*#(!|.*coding[:=]|\s*%%|\s*region|\s*endregion|\s*<)")
"""Comments that belong to their place: shebang, encoding, cell and region marks."""


def move_policy(module: Module, problem: Problem) -> list[Edit] | None:
    """Move the call, and what it needs, above the statement that builds the model."""
    setting, built = _statement(module, problem), None
    for related in problem.related:
        if related.message == BUILT and related.span.filename == module.filename:
            node = module.node_at(related.span)
            built = module.statement(node) if node is not None else None
    if not isinstance(setting, ast.Expr) or built is None:
        return None
    block = block_of(module, setting)
    anchor = _anchor(module, block[: block.index(setting)], built)
    if anchor is None or not _starts_line(module, anchor):
        return None
    between = block[block.index(anchor) : block.index(setting)]
    moved = _needed(setting, between)
    if moved is None or not all(alone(module, each) for each in moved):
        return None
    if any(_resets(each) for each in between):
        return None
    above, _ = module.line_range(_first_row(module, anchor))
    edits, text = [], ""
    for each in moved:
        start, end, blank = _chunk(module, each)
        text += module.text[start:end]
        if not text.endswith(("\n", "\r")):
            text += module.newline
        if blank > end:
            text += module.newline
        edits.append(Edit(start, blank, ""))
    return [Edit(above, above, text), *edits]


def _statement(module: Module, problem: Problem) -> ast.stmt | None:
    node = module.node_at(problem.span, ast.Call)
    if node is None:
        return None
    statement = module.statement(node)
    return statement if isinstance(statement, ast.Expr) and statement.value is node else None


def _anchor(module: Module, before: list[ast.stmt], built: ast.stmt) -> ast.stmt | None:
    """The statement of a block in which a layer is built, directly or through functions."""
    around: set[ast.AST] = {built}
    node: ast.AST = built
    names: set[str] = set()
    while node in module.parents:
        node = module.parents[node]
        around.add(node)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for statement in before:
        if statement in around and not isinstance(statement, definitions):
            return statement
    names -= {"__init__", "build", "call"}
    _add_callers(module, names)
    for statement in before:
        if not isinstance(statement, definitions) and _calls(statement, names):
            return statement
    return None


def _add_callers(module: Module, names: set[str]) -> None:
    """Add the functions and classes of the file that call one of `names`."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    definitions = [node for node in walk(module.tree) if isinstance(node, kinds)]
    grown = True
    while grown:
        more = {d.name for d in definitions if d.name not in names and _calls(d, names)}
        grown = bool(more)
        names |= more


def _calls(node: ast.AST, names: set[str]) -> bool:
    for each in walk(node):
        if isinstance(each, ast.Call):
            function = each.func
            name = function.attr if isinstance(function, ast.Attribute) else None
            name = function.id if isinstance(function, ast.Name) else name
            if name in names:
                return True
    return False


def _needed(setting: ast.stmt, between: list[ast.stmt]) -> list[ast.stmt] | None:
    """The statements that have to move along, in order; None if one of them cannot."""
    moved, waiting = [setting], [setting]
    while waiting:
        for name in _read(waiting.pop()):
            binding = [each for each in between if name in _bound(each)]
            if not binding:
                continue
            if len(binding) > 1 or not _plain(binding[0]):
                return None
            if binding[0] not in moved:
                moved.append(binding[0])
                waiting.append(binding[0])
    return sorted(moved, key=lambda each: each.lineno)


def _read(statement: ast.stmt) -> set[str]:
    return {
        node.id
        for node in walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }


def _bound(statement: ast.stmt) -> set[str]:
    found = {
        node.id
        for node in walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    for node in walk(statement):
        if isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
    return found


def _plain(statement: ast.stmt) -> bool:
    """Whether a statement only gives one name its meaning."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return True
    return (
        isinstance(statement, ast.Assign)
        and len(statement.targets) == 1
        and isinstance(statement.targets[0], ast.Name)
    )


def _resets(statement: ast.stmt) -> bool:
    """Whether the policy would not survive a statement that it is moved above."""
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in ("clear_session", "set_global_policy", "set_dtype_policy", "set_policy")
        for node in walk(statement)
    )


def _starts_line(module: Module, statement: ast.stmt) -> bool:
    start, _ = module.range(statement)
    first, _ = module.line_range(statement.lineno)
    return not module.text[first:start].strip()


def _first_row(module: Module, statement: ast.stmt) -> int:
    """The row of a statement, or of the comment that stands directly above it."""
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    row = min([statement.lineno, *(d.lineno for d in decorators)])
    while row > 1:
        line = module.line(row - 1)
        indented = len(line) - len(line.lstrip()) == statement.col_offset
        if not line.lstrip().startswith("#") or not indented or _PINNED.match(line):
            break
        row -= 1
    return row


def _chunk(module: Module, statement: ast.stmt) -> tuple[int, int, int]:
    """Start and end of a statement with its comment, and the end of blank lines that go with it.

    Those go where there are blank lines above as well: else two gaps would become one wide gap.
    """
    row = _first_row(module, statement)
    start, _ = module.line_range(row)
    last = statement.end_lineno or statement.lineno
    _, end = module.line_range(last)
    blank, rows = end, len(module.line_starts)
    if row == 1 or not module.line(row - 1).strip():
        while last < rows and not module.line(last + 1).strip() and blank < len(module.text):
            last += 1
            _, blank = module.line_range(last)
    return start, end, blank

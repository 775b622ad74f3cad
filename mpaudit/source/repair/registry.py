"""Where repairs are kept, and what they are given."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence

from msgspec import Struct

from mpaudit.finding import Problem, Span
from mpaudit.fix import Edit, Fix
from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names
from mpaudit.source.text.walk import walk

_ROOT = re.compile(r"[^\W\d]\w*")


class Context(Struct, frozen=True):
    """A problem, the file it is in, and all problems that stand, of any file (coupled repairs)."""

    problem: Problem
    module: Module
    problems: Sequence[Problem]

    def subject(self, name: str) -> str | None:
        """How the user spells an object of the problem; None where that is no name of this place.

        It may be a local name of the function in which the object is used.
        """
        spelled = dict(self.problem.subjects).get(name)
        return spelled if spelled is not None and self._sees(spelled) else None

    def _sees(self, spelled: str) -> bool:
        found = _ROOT.match(spelled)
        names, statement = Names.of(self.module), self.statement_at(self.problem.span)
        if found is None or statement is None or not names.binds(found[0]):
            return True
        here = next((each for each in walk(statement) if isinstance(each, ast.Name)), None)
        return here is None or names.sees(found[0], here)

    def node(self, kind: type[ast.AST] = ast.AST) -> ast.AST | None:
        """The syntax the problem stands at."""
        return self.module.node_at(self.problem.span, kind)

    def statement_at(self, span: Span) -> ast.stmt | None:
        """The innermost statement around a place."""
        node = self.module.node_at(span)
        return self.module.statement(node) if node is not None else None


Repair = Callable[[Context], Fix | None]
_repairs: dict[str, Repair] = {}


def repairs(*rules: str) -> Callable[[Repair], Repair]:
    """Register the repair of rules."""

    def register(function: Repair) -> Repair:
        _repairs.update(dict.fromkeys(rules, function))
        return function

    return register


def repair(context: Context) -> Fix | None:
    """The fix for a problem, None where there is none that can be trusted."""
    known = _repairs.get(context.problem.rule)
    return known(context) if known else None


def indentation(module: Module, statement: ast.stmt) -> str:
    """The white space before a statement that starts its line."""
    line = module.line(statement.lineno)
    return line[: len(line) - len(line.lstrip())]


def unit(module: Module, statement: ast.stmt) -> str:
    """By what a block is indented further than the statement that it belongs to, as here around."""
    indent, parent = indentation(module, statement), module.parents[statement]
    outside = indentation(module, parent) if isinstance(parent, ast.stmt) else ""
    return indent.removeprefix(outside) or "    "


def alone(module: Module, statement: ast.stmt) -> bool:
    """Whether a statement has its lines to itself."""
    start, end = module.range(statement)
    first, _ = module.line_range(statement.lineno)
    _, last = module.line_range(statement.end_lineno or statement.lineno)
    after = module.text[end:last].strip()
    return not module.text[first:start].strip() and (not after or after.startswith("#"))


def insert_after(module: Module, statement: ast.stmt, *lines: str) -> Edit | None:
    """Insert lines, indented as `statement`, below it; None where it shares a line."""
    if not alone(module, statement):
        return None
    indent = indentation(module, statement)
    _, end = module.line_range(statement.end_lineno or statement.lineno)
    text = "".join(f"{indent}{line}{module.newline}" for line in lines)
    if end == len(module.text) and not module.text.endswith(("\n", "\r")):
        text = module.newline + text.removesuffix(module.newline)
    return Edit(end, end, text)


def insert_before(module: Module, statement: ast.stmt, *lines: str) -> Edit | None:
    """Insert lines, indented as `statement`, above it; None where it shares a line."""
    if not alone(module, statement):
        return None
    indent = indentation(module, statement)
    start, _ = module.line_range(statement.lineno)
    return Edit(start, start, "".join(f"{indent}{line}{module.newline}" for line in lines))


def lines_of(module: Module, first: ast.stmt, last: ast.stmt | None = None) -> tuple[int, int]:
    """The character range of whole lines from one statement to another."""
    last = last or first
    start, _ = module.line_range(first.lineno)
    _, end = module.line_range(last.end_lineno or last.lineno)
    return start, end


def reindent(text: str, old: str, new: str) -> str:
    """Lines with the indentation `old` replaced by `new`; lines that lack it stay as they are."""
    return "".join(
        new + line.removeprefix(old) if line.startswith(old) and line.strip() else line
        for line in text.splitlines(keepends=True)
    )


def block_of(module: Module, statement: ast.stmt) -> list[ast.stmt]:
    """The list of statements that `statement` is part of."""
    parent = module.parents[statement]
    for name in ("body", "orelse", "finalbody"):
        block = getattr(parent, name, None)
        if isinstance(block, list) and statement in block:
            return block
    return [statement]


def spans_lines(statements: list[ast.stmt]) -> bool:
    """Whether a string reaches over a line end: such text must not be indented anew."""
    return any(
        isinstance(n, (ast.Constant, ast.JoinedStr)) and n.end_lineno != n.lineno
        for s in statements
        for n in walk(s)
    )

"""A mutant: correct code with one mistake put in, and the rule and place where mpaudit must see it.

An operator takes a program that is right and yields mutants. It must be honest: what it yields has the
mistake. Where a change leaves the program right, or where nobody could tell, it yields nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .roles import Program
from .script import Script

MARK = "\x01"
"""Stands in an edit where the finding is expected; it is taken out of the mutant's text."""

Edit = tuple[int, int, str]
"""Replace text[start:end] by the string."""


@dataclass(frozen=True)
class Mutant:
    """One mutated file of a program.

    `rows` are the rows where the finding may stand; `others` gives files that were not changed but where
    it may stand as well (path -> rows).
    """

    rule: str
    operator: str
    path: str
    text: str
    rows: frozenset[int]
    origin_row: int
    others: tuple[tuple[str, frozenset[int]], ...] = ()


@dataclass(frozen=True)
class Change:
    """What an operator yields: edits of one file, with MARKs, and marked nodes of unchanged files."""

    script: Script
    edits: tuple[Edit, ...]
    elsewhere: tuple[tuple[Script, ast.AST], ...] = ()


Operator = Callable[[Program], Iterator[Change]]
OPERATORS: list[tuple[str, str, Operator]] = []


def operator(rule: str) -> Callable[[Operator], Operator]:
    """Register an operator under the rule that its mutants break."""

    def register(function: Operator) -> Operator:
        OPERATORS.append((rule, function.__name__, function))
        return function

    return register


def change(
    script: Script,
    *edits: Edit,
    marks: Iterable[ast.AST] = (),
    elsewhere: Iterable[tuple[Script, ast.AST]] = (),
) -> Change:
    """Edits and the nodes, in the original's tree, where the finding is expected."""
    here = [script.start(node) for node in marks]
    outside = tuple((other, node) for other, node in elsewhere if other is not script)
    inside = [script.start(node) for other, node in elsewhere if other is script]
    here += [at for at in inside if not any(start < at < end for start, end, _ in edits)]
    return Change(script, (*edits, *((at, at, MARK) for at in sorted(set(here)))), outside)


def mutants(program: Program, rules: Iterable[str]) -> Iterator[Mutant]:
    """Every mutant of a program whose rule is among `rules`."""
    wanted = set(rules)
    for rule, name, function in OPERATORS:
        if rule not in wanted:
            continue
        seen: set[str] = set()
        for each in function(program):
            made = _apply(rule, name, each)
            if made is not None and made.text not in seen:
                seen.add(made.text)
                yield made


def _apply(rule: str, name: str, made: Change) -> Mutant | None:
    text = made.script.text
    pieces: list[str] = []
    position = 0
    for start, end, new in sorted(made.edits, key=lambda e: (e[0], e[1], e[2] != MARK)):
        if start < position:
            return None
        pieces += [text[position:start], new]
        position = end
    marked = "".join([*pieces, text[position:]])
    rows = {row for row, line in enumerate(marked.split("\n"), start=1) if MARK in line}
    mutated = marked.replace(MARK, "")
    try:
        tree = ast.parse(mutated)
    except SyntaxError:
        return None
    first = min((e[0] for e in made.edits if e[2] != MARK), default=0)
    return Mutant(
        rule,
        name,
        made.script.path,
        mutated,
        frozenset(_widened(tree, rows)),
        text.count("\n", 0, first) + 1,
        tuple(
            (script.path, frozenset(_widened(script.tree, {node.lineno})))
            for script, node in made.elsewhere
        ),
    )


def _widened(tree: ast.Module, rows: set[int]) -> set[int]:
    """All rows of the simple statements (or headers of compound ones) that hold these rows."""
    found = set(rows)
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt):
            continue
        body = getattr(node, "body", None)
        last = body[0].lineno - 1 if isinstance(body, list) and body else (node.end_lineno or 0)
        span = range(node.lineno, last + 1)
        if rows.intersection(span):
            found.update(span)
    return found

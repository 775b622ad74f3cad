"""A match statement as the branches that it stands for, where its patterns compare with constants."""

from __future__ import annotations

import ast
from typing import TypeVar

from mpaudit.source.text.memo import by_node
from mpaudit.source.text.walk import walk

N = TypeVar("N", ast.If, ast.expr)


@by_node
def branches(node: ast.Match) -> ast.If | None:
    """The `if` that takes the same cases, so that a second question about the same value is answered alike.

    None where a pattern takes a value apart, and where the value is not a name or an attribute.
    """
    if not all(isinstance(n, (ast.Name, ast.Attribute)) for n in walk(node.subject)):
        return None
    whole: list[ast.stmt] = []
    for case in reversed(node.cases):
        test = _test(node, case.pattern)
        if test is None:
            return None
        if case.guard is not None:
            test = _placed(ast.BoolOp(op=ast.And(), values=[test, case.guard]), case.pattern)
        asked = _placed(ast.If(test=test, body=case.body, orelse=whole), case.pattern)
        whole = [asked]
    return asked


def chain(node: ast.If) -> list[ast.If]:
    """An `if` of `branches`, and those of the cases further down."""
    found = [node]
    while found[-1].orelse and isinstance(found[-1].orelse[0], ast.If):
        found.append(found[-1].orelse[0])
    return found


def _test(node: ast.Match, pattern: ast.pattern) -> ast.expr | None:
    """The question whether the value of a match statement fits a pattern."""
    subject = node.subject
    test: ast.expr
    if isinstance(pattern, ast.MatchValue):
        test = ast.Compare(left=subject, ops=[ast.Eq()], comparators=[pattern.value])
    elif isinstance(pattern, ast.MatchSingleton) and pattern.value is None:
        test = ast.Compare(left=subject, ops=[ast.Is()], comparators=[ast.Constant(value=None)])
    elif isinstance(pattern, ast.MatchSingleton):
        if not _switch(node):  # then a value that is true need not be True
            return None
        test = subject if pattern.value else ast.UnaryOp(op=ast.Not(), operand=subject)
    elif isinstance(pattern, ast.MatchOr):
        parts = [_test(node, each) for each in pattern.patterns]
        known = [each for each in parts if each is not None]
        if len(known) != len(parts):
            return None
        test = ast.BoolOp(op=ast.Or(), values=known)
    elif isinstance(pattern, ast.MatchAs) and pattern.pattern is None and pattern.name is None:
        test = ast.Constant(value=True)
    else:
        return None
    return test if test is subject else _placed(test, pattern)


def _switch(node: ast.Match) -> bool:
    """Whether a match statement tells nothing but True, False and None, and None not after False alone."""
    parts = [n for case in node.cases for n in walk(case.pattern)]
    if any(isinstance(n, ast.MatchValue) for n in parts):
        return False
    for case in node.cases:
        told = [n.value for n in walk(case.pattern) if isinstance(n, ast.MatchSingleton)]
        if None in told or False in told:
            return None in told or all(
                n.value is not None for n in parts if isinstance(n, ast.MatchSingleton)
            )
    return True


def _placed(made: N, at: ast.pattern) -> N:
    """A node that stands where a pattern does."""
    return ast.fix_missing_locations(ast.copy_location(made, at))

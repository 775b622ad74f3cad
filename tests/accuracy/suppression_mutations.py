"""Comments that silence what is not there (MP002)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .mutation import MARK, Change, operator
from .roles import Program
from .script import Script

SIMPLE = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)


@operator("unused-suppression")
def stale_comments(program: Program) -> Iterator[Change]:
    """Comments in each spelling, at the first and the last line of code outside of functions."""
    for script in program.scripts:
        alone = [each for each in script.tree.body if _takes_a_comment(script, each)]
        for stmt in {id(each): each for each in (*alone[:1], *alone[-1:])}.values():
            end = script.end(stmt)
            start = script.line_start(script.start(stmt))
            for comment in ("# mpaudit: ignore[unscaled-step] old", "# noqa: E501, MP103"):
                yield Change(script, ((end, end, f"  {MARK}{comment}"),))
            yield Change(script, ((start, start, f"{MARK}# mpaudit: ignore[MP103]\n"),))


def _takes_a_comment(script: Script, stmt: ast.stmt) -> bool:
    rest = script.text[script.end(stmt) : script.line_end(script.end(stmt))]
    return isinstance(stmt, SIMPLE) and script.owns_lines(stmt) and not rest.strip()

"""How much of the budget a call may use up, and whether following it again can be worth it."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from mpaudit.source.engine.narrow import HANDLING
from mpaudit.source.engine.relevance import Relevance
from mpaudit.source.engine.values import Function
from mpaudit.source.text.module import Module

SHARE = 0.3
"""How much of what is left of the budget a call may use up."""
LARGE_SHARE = 0.8
"""The same for a call that leads to the training, which is often some methods further down, and for one
behind which nothing follows that matters, as `main()` at the end of a file."""
LEAST = 1000
"""What a call may use up in any case, in evaluations of an expression."""


class Shares:
    """What is left for calls, by where they stand."""

    def __init__(self, relevance: Relevance) -> None:
        self.relevance = relevance
        self._last: dict[ast.expr, bool] = {}

    def of(self, left: int, module: Module, site: ast.expr, *, trains: bool) -> int:
        """What a call at `site` may use up of the evaluations that are left."""
        if site not in self._last:
            self._last[site] = self._is_last(module, site)
        share = LARGE_SHARE if trains or self._last[site] else SHARE
        return min(left, max(LEAST, int(left * share)))

    def forget(self) -> None:
        """Let go of the places of calls; of those that come again it is found out again."""
        self._last.clear()

    def held_back(self, function: Function, executed: Mapping[ast.stmt, int], turn: int) -> bool:
        """Whether a statement of a function that handles what matters was not reached in this turn.

        What a counter keeps from it in the first pass of a loop may be reached in a later one.
        """
        body = [] if isinstance(function.node, ast.Lambda) else function.node.body
        return any(
            executed.get(statement) != turn
            and not self.relevance.idle(function.module, statement, HANDLING)
            for statement in body
        )

    def _is_last(self, module: Module, site: ast.expr) -> bool:
        """Whether nothing that matters follows a call in the function or the file around it."""
        node: ast.AST = site
        while node in module.parents:
            inner, node = node, module.parents[node]
            if isinstance(node, (ast.For, ast.AsyncFor, ast.While)):
                return False
            for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
                if isinstance(body, list) and inner in body:
                    rest = body[body.index(inner) + 1 :]
                    if not all(self.relevance.idle(module, each, HANDLING) for each in rest):
                        return False
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                return True
        return isinstance(node, ast.Module)

"""A call is followed within its share of the budget, more narrowly if need be, or given up."""

from __future__ import annotations

import ast
from abc import abstractmethod

from mpaudit.protocols.protocol import Verdict
from mpaudit.source.call import Enter, Exhausted
from mpaudit.source.expression import Expressions
from mpaudit.source.facts import beyond, carries
from mpaudit.source.narrow import NARROWNESS, STEPPING, TRAINING, judged
from mpaudit.source.path import Path
from mpaudit.source.share import Shares
from mpaudit.source.values import UNKNOWN, Thing

FRUITLESS = 2
"""A function of which nothing has come so often is not followed again from the same entry point."""


class Allowances(Expressions):
    """Follows calls, each within its share."""

    verdicts: list[Verdict]
    escaped: list[Path]
    executed: dict[ast.stmt, int]
    """The statements that were executed, and the turn in which they were last."""
    turn: int
    shares: Shares

    @abstractmethod
    def follow(self, path: Path, call: Enter) -> list[Path]:
        """Execute a function of the project; the paths on which it returns."""

    def within_its_share(self, path: Path, call: Enter) -> list[Path]:
        """Follow a call as far as its share of the budget goes, more narrowly if need be, or give it up."""
        node, before, told = call.function.node, path.copy(), self.told
        if self.fruitless.get(node, 0) > FRUITLESS:
            return [self.given_up(before, call)]
        trains = self.relevance.handling(call.function, TRAINING)
        ladder = NARROWNESS[NARROWNESS.index(self.narrow) :] if trains else (self.narrow, STEPPING)
        for narrow in ladder:
            if narrow is STEPPING and not self.relevance.handling(call.function, STEPPING):
                break
            if self.oversized.get(node, -1) >= NARROWNESS.index(narrow):
                continue
            ended = self._share_of(before.copy(), call, narrow, trains=trains)
            if ended is not None:
                if told == self.told and not any(self.shows(each, before, call) for each in ended):
                    if not self.shares.held_back(call.function, self.executed, self.turn):
                        self.fruitless[node] = self.fruitless.get(node, 0) + 1
                return ended
            self.oversized[node] = NARROWNESS.index(narrow)
        return [self.given_up(before, call)]

    def _share_of(
        self, path: Path, call: Enter, narrow: frozenset[str] | None, *, trains: bool
    ) -> list[Path] | None:
        """Follow a call as narrowly as told; None if its share of the budget does not suffice."""
        around, floor, escaped = self.narrow, self.floor, self.escaped.copy()
        verdicts, followed, guards = len(self.verdicts), len(self.followed), self.guards
        budget = self.budget
        site = path.frame.module, call.site
        self.floor = budget - self.shares.of(budget - floor, *site, trains=trains)
        self.narrow = narrow
        try:
            ended = self.follow(path, call)
        except Exhausted:
            if self.budget < floor:
                raise
            self.escaped, self.guards = escaped, guards
            del self.verdicts[verdicts:]
            for node in list(self.followed)[followed:]:
                del self.followed[node]
            if trains and narrow is not STEPPING:
                self.refund(budget - self.budget)
            return None
        else:
            if narrow is not around:
                self.verdicts[verdicts:] = judged(self.verdicts[verdicts:], narrow)
            return ended
        finally:
            self.floor, self.narrow = floor, around

    def shows(self, path: Path, before: Path, call: Enter) -> bool:
        """Whether anything came of a call that told no protocol anything."""
        result = path.frame.done.get(call.site)
        return (result is not None and carries(result, path)) or path.heap.changed(before.heap)

    def given_up(self, path: Path, call: Enter) -> Path:
        """The path behind a call that is not followed after all."""
        if call.function.node in self.oversized:
            self.followed.pop(call.function.node, None)
        scope = call.frame.scopes[0]
        given = [value for name, value in path.heap.of(scope) if not name.startswith("@")]
        path.heap.forget_owner(scope)
        if isinstance(call.site, ast.Call):
            self.lose(given, path, path.frame.module.span(call.site), elsewhere=True)
        made = call.result or beyond(self.made(call.site, path), given, path)
        if call.result is None and isinstance(made, Thing):
            path.learn(made, scaled=UNKNOWN)
        path.frame.done[call.site] = made
        return path

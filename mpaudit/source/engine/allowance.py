"""A call is followed within its share of the budget, more narrowly if need be, or given up."""

from __future__ import annotations

import ast
from abc import abstractmethod

from mpaudit.protocols.protocol import Verdict
from mpaudit.source.engine.binding import Enter, Exhausted
from mpaudit.source.engine.expression import Expressions
from mpaudit.source.engine.facts import beyond, carries
from mpaudit.source.engine.narrow import NARROWNESS, STEPPING, TRAINING, judged
from mpaudit.source.engine.path import Path
from mpaudit.source.engine.share import Shares
from mpaudit.source.engine.unfollowed import not_followed
from mpaudit.source.engine.values import UNKNOWN, Thing
from mpaudit.source.text.outline import is_short

FRUITLESS = 2
"""A function of which nothing has come so often is not followed again from the same entry point."""
MORE = 1.25
"""How much more of the budget another entry point must allow, to try again what has not sufficed."""


class Oversized:
    """The functions that were too large for what they were allowed, and how narrowly they were followed.

    In one turn that stands; in a later one, be it of another file that inherits the same loop, they are
    tried again only if far more is allowed. Files that share a function are always judged together.
    """

    def __init__(self) -> None:
        self._known: dict[ast.AST, dict[int, tuple[int, int]]] = {}

    def note(self, node: ast.AST, level: int, allowed: int, turn: int) -> None:
        """A function followed as narrowly as `level` (an index of NARROWNESS) used up what it was allowed."""
        known = self._known.setdefault(node, {})
        before, _ = known.get(level, (0, 0))
        known[level] = max(allowed, before), turn

    def hopeless(self, node: ast.AST, level: int, allowed: int, turn: int) -> bool:
        """Whether it need not be tried: neither so narrowly nor more so did that much suffice."""
        return any(
            level <= known and (then == turn or allowed <= before * MORE)
            for known, (before, then) in self._known.get(node, {}).items()
        )

    def forget(self, node: ast.AST) -> None:
        """Nobody will meet that function again."""
        self._known.pop(node, None)

    def __contains__(self, node: ast.AST) -> bool:
        return node in self._known


class Allowances(Expressions):
    """Follows calls, each within its share."""

    verdicts: list[Verdict]
    escaped: list[Path]
    executed: dict[ast.stmt, int]
    """The statements that were executed, and the turn in which they were last."""
    turn: int
    shares: Shares
    oversized: Oversized
    narrowed = False
    """Whether less than everything was followed in a file: of some rules, nothing was judged."""

    @abstractmethod
    def follow(self, path: Path, call: Enter) -> list[Path]:
        """Execute a function of the project; the paths on which it returns."""

    def within_its_share(self, path: Path, call: Enter) -> list[Path]:
        """Follow a call as far as its share of the budget goes, more narrowly if need be, or give it up."""
        node, told = call.function.node, self.told
        if self.fruitless.get(node, 0) > FRUITLESS:
            return [self.given_up(path, call)]
        trains = self.relevance.handling(call.function, TRAINING)
        ladder = NARROWNESS[NARROWNESS.index(self.narrow) :] if trains else (self.narrow, STEPPING)
        for narrow in ladder:
            if narrow is STEPPING and not self.relevance.handling(call.function, STEPPING):
                break
            left, level = self.budget - self.floor, NARROWNESS.index(narrow)
            allowed = self.shares.of(left, path.frame.module, call.site, trains=trains)
            if self.oversized.hopeless(node, level, allowed, self.turn):
                continue
            ended = self._allowed(allowed, path.copy(), call, narrow, trains=trains)
            if ended is not None:
                self.steady = self.steady and (narrow is self.narrow or not trains)
                if told == self.told and self._idle(call, path, ended):
                    self.fruitless[node] = self.fruitless.get(node, 0) + 1
                return ended
            self.oversized.note(node, level, allowed, self.turn)
            if narrow is ladder[0] and len(ladder) > 2:
                # Where the narrowest does not suffice, there is no use in trying what lies between.
                least = self._allowed(allowed, path.copy(), call, STEPPING, trains=True, trial=True)
                if least is None:
                    self.oversized.note(node, NARROWNESS.index(STEPPING), allowed, self.turn)
        self.steady = self.steady and not trains
        return [self.given_up(path, call)]

    def _allowed(
        self,
        allowed: int,
        path: Path,
        call: Enter,
        narrow: frozenset[str] | None,
        *,
        trains: bool,
        trial: bool = False,
    ) -> list[Path] | None:
        """Follow a call as narrowly as told; None if what it is allowed of the budget does not suffice.

        Nothing is left behind by what did not suffice, nor by a `trial`.
        """
        around, escaped = self.narrow, self.escaped.copy()
        verdicts, followed, guards = len(self.verdicts), len(self.followed), self.guards
        budget, floor = self.budget, self.floor
        attempt, self.narrow = self.attempt_within(budget - allowed), narrow
        ended: list[Path] | None = None
        try:
            ended = self.follow(path, call)
        except Exhausted:
            if self.budget < floor:
                raise
        finally:
            self.attempted(attempt)
            self.narrow = around
        if ended is None or trial:
            self.escaped, self.guards = escaped, guards
            del self.verdicts[verdicts:]
            for node in list(self.followed)[followed:]:
                del self.followed[node]
            if trains and (trial or narrow is not STEPPING):
                self.refund(budget - self.budget)
        elif narrow is not around:
            self.narrowed = True
            self.verdicts[verdicts:] = judged(self.verdicts[verdicts:], narrow)
        return ended

    def _idle(self, call: Enter, before: Path, ended: list[Path]) -> bool:
        """Whether nothing came of a call that told no protocol anything, nor can come of it later."""
        if is_short(call.function.node) or any(self.shows(each, before, call) for each in ended):
            return False
        return not self.shares.held_back(call.function, self.executed, self.turn)

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
        not_followed(call.function, call.result or next(iter(given), None), path, self.identities)
        made = call.result or beyond(self.made(call.site, path), given, path)
        if call.result is None and isinstance(made, Thing):
            path.learn(made, scaled=UNKNOWN, activation=UNKNOWN)
        path.frame.done[call.site] = made
        return path

"""New values and their identities: what a place makes in this activation and pass, what is computed."""

from __future__ import annotations

import ast
from abc import abstractmethod
from collections.abc import Hashable, Sequence

from mpaudit.source.engine.facts import inherit, item_of
from mpaudit.source.engine.logic import Logic
from mpaudit.source.engine.path import Identities, Path
from mpaudit.source.engine.region import Regions
from mpaudit.source.engine.values import Const, Pack, Thing, Value, newest


class Making(Regions):
    """Makes values."""

    identities: Identities
    logic: Logic
    sites: dict[tuple[ast.expr, int], ast.expr]

    def site(self, node: ast.expr, index: int) -> ast.expr:
        """A place to call from, beside `node`: for what a library calls more than once."""
        return self.sites.setdefault((node, index), ast.copy_location(ast.Name("_"), node))

    def made(self, node: ast.AST, path: Path, *, kind: str = "") -> Thing:
        """A new thing made by `node` in this activation and loop pass."""
        frame = path.frame
        number = self.identities.number("made", node, frame.context, frame.iteration)
        return Thing(number, kind, frame.iteration)

    def term(self, operation: str, *operands: Value, text: str = "") -> Thing:
        """The symbolic result of an operation on values."""
        return self.logic.term(operation, *operands, text=text)

    def each(self, over: Value, node: ast.expr, path: Path) -> Value:
        """An unknown item of what is iterated over, in the loop pass in progress."""
        known = path.known(over, "@each")
        if known is not None:
            return item_of(over, known, path, self.identities)
        iteration = path.frame.iteration
        within = path.known(over, "@enumerated")
        if within is not None:
            start = path.known(over, "@start") or Const(0)
            number = self.identities.number("index", start, *self._passing(within, node, path))
            return Pack((Thing(number, since=iteration), self.each(within, node, path)))
        columns = path.known(over, "@zipped")
        if isinstance(columns, Pack):
            return Pack(tuple(self.each(column, node, path) for column in columns.items))
        number = self.identities.number("each", over, *self._passing(over, node, path))
        made = self.derive(Thing(number, since=max(iteration, newest(over))), (over,), path)
        return self.operated("each", (over,), made, path)

    def _passing(self, over: Value, node: ast.expr, path: Path) -> Sequence[Hashable]:
        """What tells the item of this pass from others: loops over the same meet the same items."""
        iteration = path.frame.iteration
        operation, *operands = self.identities.description(iteration[1])
        if operation != "pass" or getattr(operands[0], "iter", None) is not node:
            return node, iteration
        return operands[3:] if newest(over) < iteration else (node, iteration)

    @abstractmethod
    def operated(
        self, operation: str, operands: tuple[Value, ...], made: Thing, path: Path
    ) -> Thing:
        """`made`, with what the libraries know of the result of an operation."""

    def derive(
        self, made: Thing, sources: Sequence[Value], path: Path, *, scales: bool = False
    ) -> Thing:
        """Let a computed value inherit what is known of its sources (`mpaudit.source.engine.facts`)."""
        return inherit(made, sources, path, scales=scales)

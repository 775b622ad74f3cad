"""Generators: what iterates over one, or enters one as a context, runs where it yields."""

from __future__ import annotations

import ast
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec import Struct

from mpaudit.source.engine.binding import Enter
from mpaudit.source.engine.flow import Flow
from mpaudit.source.engine.path import Frame, Path, lookup
from mpaudit.source.engine.values import Class, Function, Partial, Thing, Value

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAVING = "leaving: "
"""How the exit of a path begins that left a generator from within what it yielded to."""

Resume = Callable[[Path, Value, Frame], list[Path]]
"""Goes on with a yielded value, outside of the generator whose frame is given."""


class Hole(Struct, frozen=True):
    """Where a generator in progress yields to; `depth` is the number of frames with its own."""

    depth: int
    resume: Resume


class Generators(Flow):
    """Executes generators of the project in step with the statement that uses them."""

    holes: list[Hole]

    def generator(self, value: Value, path: Path) -> Partial | None:
        """The function and arguments of a generator that has not begun, None for anything else."""
        found = path.known(value, "@generator")
        return found if isinstance(found, Partial) else None

    def generate(
        self, generator: Partial, site: ast.expr, path: Path, resume: Resume
    ) -> list[Path]:
        """Execute a generator to its end; wherever it yields, go on with `resume`."""
        function = generator.function
        assert isinstance(function, Function)
        frame = self.activation(site, function, path)
        self.bind(function, frame, generator.arguments, dict(generator.keywords), path)
        self.holes.append(Hole(len(path.frames) + 1, resume))
        try:
            ended = self.outcomes(path, Enter(site, function, frame, None))
        finally:
            self.holes.pop()
        for each in ended:
            each.frame.done.pop(site, None)
            if each.exit is not None:
                each.exit = each.exit.removeprefix(LEAVING)
        return ended

    def _do_Expr(self, node: ast.Expr, path: Path) -> list[Path]:
        if isinstance(node.value, ast.Yield):
            return self._yielded(node.value, path)
        return super()._do_Expr(node, path)

    def _do_Assign(self, node: ast.Assign, path: Path) -> list[Path]:
        if isinstance(node.value, ast.Yield):
            return self._yielded(node.value, path)
        return super()._do_Assign(node, path)

    def _yielded(self, node: ast.Yield, path: Path) -> list[Path]:
        paths = self.run(path, node.value)
        if not self.holes or self.holes[-1].depth != len(path.frames):
            return [each for each, _ in paths]
        ended: list[Path] = []
        for each, value in paths:
            inner = each.frames.pop()
            with self._outside() as hole:
                after = hole.resume(each, value, inner)
            for done in after:
                done.frames.append(inner.copy())
                if done.exit is not None:
                    done.exit = LEAVING + done.exit
                ended.append(done)
        return ended

    @contextmanager
    def _outside(self) -> Iterator[Hole]:
        hole = self.holes.pop()
        try:
            yield hole
        finally:
            self.holes.append(hole)

    # Objects of the project as contexts

    def call_method(self, receiver: Thing, name: str, site: ast.expr, path: Path) -> list[Path]:
        """Call a method of a project's own object, `__enter__` or `__exit__`, without arguments."""

        owner = path.known(receiver, "@class")
        found = lookup(path, owner, name) if isinstance(owner, Class) else None
        if not isinstance(found, Function):
            return [path]
        method = found

        def call(current: Path) -> Value:
            if site in current.frame.done:
                return current.frame.done[site]
            return self.enter(site, method, (receiver,), {}, current)

        return [each for each, _ in self.attempt(path, call)]

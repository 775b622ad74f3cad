"""Statements: abstract execution, path by path."""

from __future__ import annotations

import ast
from abc import abstractmethod
from collections.abc import Callable
from functools import partial

from mpaudit.event import Event, LostSight
from mpaudit.source.engine import registry
from mpaudit.source.engine.allowance import Allowances
from mpaudit.source.engine.binding import Enter
from mpaudit.source.engine.join import merge
from mpaudit.source.engine.narrow import SMALL
from mpaudit.source.engine.path import Fork, Frame, Path
from mpaudit.source.engine.skim import pass_over, passable
from mpaudit.source.engine.values import (
    Bound,
    Choice,
    Class,
    Const,
    Function,
    Pack,
    Partial,
    Thing,
    Value,
)
from mpaudit.source.trait.way_out import leads_out

MAX_PATHS = 48
EVENT = 4
"""What it costs to tell an event to the protocols, in evaluations of an expression."""
WATCHED = frozenset(["GradScaler", "autocast", "Optimizer", "context"])
"""The kinds of things that protocols watch."""


class Flow(Allowances):
    """Executes statements; `verdicts` collects what the protocols say on every path."""

    def emit(self, event: Event, path: Path) -> None:
        """Feed an event to the path's protocols."""
        self.spend(EVENT * len(path.standing))
        self.told += not isinstance(event, LostSight)
        path.standing, verdicts = path.standing.after(event)
        self.verdicts.extend(verdicts)

    def merged(self, paths: list[Path]) -> list[Path]:
        """The paths, joined where no protocol can tell them apart."""
        if len(paths) > 1:
            self.spend(len(paths))
        return merge(paths, MAX_PATHS, self.identities, self.telling)

    def telling(self, value: Value) -> bool:
        """Whether a protocol would miss a value if it became unknown."""
        if isinstance(value, Thing):
            return value.kind in WATCHED
        if isinstance(value, Choice):
            return self.telling(value.yes) or self.telling(value.no)
        if isinstance(value, Function):
            return self.relevance.handling(value)
        if isinstance(value, Bound):
            method = value.function
            return self.telling(value.receiver if method is None else method)
        return isinstance(value, Partial)

    # Running expressions, whatever they need on the way

    def run(self, path: Path, node: ast.expr | None) -> list[tuple[Path, Value]]:
        """Evaluate an expression in every way it can turn out on this path."""
        if node is None:
            return [(path, Const(None))]
        return self.attempt(path, lambda current: self.evaluate(node, current))

    def attempt(self, path: Path, evaluate: Callable[[Path], Value]) -> list[tuple[Path, Value]]:
        """Evaluate; at an open condition go both ways, at a call follow it, and try again.

        Calls that were already made are not made again: their results are kept in the frame.
        """
        finished: list[tuple[Path, Value]] = []
        waiting = [path]
        while waiting:
            current = waiting.pop()
            try:
                value = evaluate(current)
            except Fork as fork:
                waiting.extend(self.split(current, fork.condition))
            except Enter as call:
                waiting.extend(self.within_its_share(current, call))
            else:
                current.frame.done.clear()
                finished.append((current, value))
            if len(finished) + len(waiting) > MAX_PATHS:
                waiting = waiting[: max(MAX_PATHS - len(finished), 0)]
        return finished

    def split(self, path: Path, condition: Thing) -> list[Path]:
        """The path with the condition answered by yes, and by no."""
        other = path.copy()
        self.logic.answer(condition, True, path)
        self.logic.answer(condition, False, other)
        return [other, path]

    def follow(self, path: Path, call: Enter) -> list[Path]:
        """Execute a function of the project; the paths on which it returns.

        Those on which it raises are put into `escaped`, for the block in progress to pick up.
        """
        ended = self.outcomes(path, call)
        self.escaped.extend(each for each in ended if each.exit is not None)
        return [each for each in ended if each.exit is None]

    def outcomes(self, path: Path, call: Enter) -> list[Path]:
        """Execute a function of the project; all paths on which control leaves it."""
        escaped, self.escaped = self.escaped, []
        path.frames.append(call.frame)
        outside = path.regions
        for decorator in call.function.decorators:
            if isinstance(decorator, Thing) and decorator.kind == "autocast":
                self.enter_region(decorator, self.places[decorator.uid], path)
        decorated = path.regions != outside
        if isinstance(call.function.node, ast.Lambda):
            ended = []
            for each, value in self.run(path, call.function.node.body):
                each.result = value
                ended.append(each)
        else:
            ended = self.block(call.function.node.body, [path])
        ended.extend(self.escaped)
        self.escaped = escaped
        scope = call.frame.scopes[0]
        for each in ended:
            each.frames.pop()
            if decorated:
                each.regions = outside
            if (scope, "@captured") not in each.heap:
                each.heap.forget_owner(scope)
            if each.exit in (None, "return"):
                each.exit, each.result = None, call.result or each.result or Const(None)
        ended = self.merged(ended)  # which tells what they return apart
        for each in ended:
            if each.exit is None and each.result is not None:
                each.frame.done[call.site], each.result = each.result, None
        return ended

    # Statements

    def block(self, body: list[ast.stmt], paths: list[Path]) -> list[Path]:
        """Execute statements in order on every path that is still going on."""
        left: list[Path] = []
        for statement in body:
            going: list[Path] = []
            repeat = self.repeat(len(paths))
            for path in paths:
                repeat.turn(self.budget)
                for after in self.statement(statement, path):
                    (going if after.exit is None else left).append(after)
            self.repeats.pop()
            left.extend(self.escaped)
            self.escaped = []
            paths = self.merged(going)
            if not paths:
                break
        return [*paths, *left]

    def statement(self, node: ast.stmt, path: Path) -> list[Path]:
        """Execute one statement."""
        self.spend()
        self.executed[node] = self.turn
        if self.narrow and passable(node, SMALL.get(self.narrow, 0)):
            if self.relevance.idle(path.frame.module, node, self.narrow):
                return pass_over(self, node, path)
        method: Callable[[ast.stmt, Path], list[Path]] | None
        method = getattr(self, "_do_" + type(node).__name__, None)
        return method(node, path) if method else [path]

    def _do_Expr(self, node: ast.Expr, path: Path) -> list[Path]:
        ended = [each for each, _ in self.run(path, node.value)]
        if path.frame.function is not None and leads_out(node, path.frame.module):
            return [out for each in ended for out in self._out(each)]
        return ended

    def _do_Assign(self, node: ast.Assign, path: Path) -> list[Path]:
        return [
            done
            for each, value in self.run(path, node.value)
            for done in self.bind_all(node.targets, value, each)
        ]

    def bind_all(self, targets: list[ast.expr], value: Value, path: Path) -> list[Path]:
        """Bind every target to the value."""
        paths = [path]
        for target in targets:
            paths = [
                each
                for current in paths
                for each, _ in self.attempt(current, partial(self._bound, target, value))
            ]
        return paths

    def _bound(self, target: ast.expr, value: Value, path: Path) -> Value:
        self.assign(target, value, path)
        return value

    def _do_AnnAssign(self, node: ast.AnnAssign, path: Path) -> list[Path]:
        if node.value is None:
            return [path]
        return [
            done
            for each, value in self.run(path, node.value)
            for done in self.bind_all([node.target], value, each)
        ]

    def _do_AugAssign(self, node: ast.AugAssign, path: Path) -> list[Path]:
        def compute(current: Path) -> Value:
            left = self.evaluate(node.target, current)
            right = self.evaluate(node.value, current)
            registry.augmented(self, node, left, right, current)
            return self.binary(node.op, left, right, current)

        return [
            done
            for each, value in self.attempt(path, compute)
            for done in self.bind_all([node.target], value, each)
        ]

    def _do_Return(self, node: ast.Return, path: Path) -> list[Path]:
        paths = []
        for each, value in self.run(path, node.value):
            each.exit, each.result = "return", value
            paths.append(each)
        return paths

    def _do_Raise(self, _: ast.Raise, path: Path) -> list[Path]:
        return self._out(path)

    def _out(self, path: Path) -> list[Path]:
        """The path on which something was raised."""
        if not self.guards:  # the program ends here, and nothing that follows is reached
            return []
        path.exit = "raise"
        return [path]

    def _do_Break(self, _: ast.Break, path: Path) -> list[Path]:
        path.exit = "break"
        return [path]

    def _do_Continue(self, _: ast.Continue, path: Path) -> list[Path]:
        path.exit = "continue"
        return [path]

    def _do_Assert(self, node: ast.Assert, path: Path) -> list[Path]:
        paths = []
        for each, value in self.run(path, node.test):
            known = self.logic.truth(value, each)
            if known is None:
                question = self.logic.question(value, each)
                each.facts[question] = True
                if self.logic.truth(value, each) is False:
                    each.facts[question] = False
            paths.append(each)
        return paths

    def _do_Global(self, node: ast.Global, path: Path) -> list[Path]:
        path.frame.global_names |= frozenset(node.names)
        return [path]

    def _do_Nonlocal(self, node: ast.Nonlocal, path: Path) -> list[Path]:
        path.frame.nonlocal_names |= frozenset(node.names)
        return [path]

    def _do_FunctionDef(self, node: ast.FunctionDef, path: Path) -> list[Path]:
        return [
            done
            for each, value in self.attempt(path, lambda p: self.function(node, p))
            for done in self.bind_all([_name(node)], value, each)
        ]

    _do_AsyncFunctionDef = _do_FunctionDef

    def _do_ClassDef(self, node: ast.ClassDef, path: Path) -> list[Path]:
        paths = []
        for each, bases in self.attempt(
            path, lambda p: Pack(tuple(self.evaluate(base, p) for base in node.bases))
        ):
            assert isinstance(bases, Pack)
            frame = each.frame
            uid = self.identities.number("class", node, frame.context)
            owner = Class(node, frame.module, uid, bases.items)
            each.heap[(frame.scopes[0], node.name)] = owner
            each.heap[(uid, "@class")] = owner
            inside = Frame(frame.module, (uid, *frame.scopes), frame.context, frame.function)
            inside.in_class = True
            inside.iteration = frame.iteration
            each.frames.append(inside)
            for done in self.block(node.body, [each]):
                done.frames.pop()
                paths.append(done)
        return paths

    def _do_Import(self, node: ast.Import, path: Path) -> list[Path]:
        for alias in node.names:
            name = alias.name if alias.asname else alias.name.partition(".")[0]
            bound = alias.asname or name
            path.heap[(path.frame.scopes[0], bound)] = self.import_module(name, path)
        return [path]

    def _do_ImportFrom(self, node: ast.ImportFrom, path: Path) -> list[Path]:
        for alias in node.names:
            value = self.import_name(node.module or "", alias.name, node.level, path)
            if alias.name != "*":
                path.heap[(path.frame.scopes[0], alias.asname or alias.name)] = value
        return [path]

    # Imports, resolved by the analysis

    @abstractmethod
    def import_module(self, name: str, path: Path) -> Value:
        """`import name`."""

    @abstractmethod
    def import_name(self, module: str, name: str, level: int, path: Path) -> Value:
        """`from module import name`; `level` counts the leading dots."""


def _name(node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.expr:
    return ast.Name(id=node.name, ctx=ast.Store())

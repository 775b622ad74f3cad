"""Statements: abstract execution, path by path."""

from __future__ import annotations

import ast
from abc import abstractmethod
from collections.abc import Callable

from mpaudit.event import Event
from mpaudit.protocols.protocol import Verdict
from mpaudit.source import library
from mpaudit.source.call import Enter
from mpaudit.source.expression import Expressions
from mpaudit.source.path import Fork, Frame, Path, merge
from mpaudit.source.values import (
    NOWHERE,
    Choice,
    Class,
    Const,
    Iteration,
    Pack,
    Thing,
    Value,
)

MAX_PATHS = 48
MAX_ITEMS = 6
LOOP_PASSES = 2
"""Loops run twice, so that what one pass leaves behind is seen by the next."""


class Flow(Expressions):
    """Executes statements; `verdicts` collects what the protocols say on every path."""

    verdicts: list[Verdict]
    escaped: list[Path]

    def emit(self, event: Event, path: Path) -> None:
        """Feed an event to the path's protocols."""
        path.standing, verdicts = path.standing.after(event)
        self.verdicts.extend(verdicts)

    def merged(self, paths: list[Path]) -> list[Path]:
        """The paths, joined where no protocol can tell them apart."""
        self.spend(len(paths))
        return merge(paths, MAX_PATHS, self.identities)

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
                waiting.extend(self.follow(current, call))
            else:
                current.frame.done.clear()
                finished.append((current, value))
            if len(finished) + len(waiting) > MAX_PATHS:
                waiting = waiting[: max(MAX_PATHS - len(finished), 0)]
        return finished

    def split(self, path: Path, condition: Thing) -> list[Path]:
        """The path with the condition answered by yes, and by no."""
        other = path.copy()
        path.facts[condition], other.facts[condition] = True, False
        return [other, path]

    def follow(self, path: Path, call: Enter) -> list[Path]:
        """Execute a function of the project; the paths on which it returns.

        Those on which it raises are put into `escaped`, for the block in progress to pick up.
        """
        regions, escaped = path.regions, self.escaped
        self.escaped = []
        path.frames.append(call.frame)
        for decorator in call.function.decorators:
            if isinstance(decorator, Thing) and decorator.kind == "autocast":
                self.enter_region(decorator, self.places[decorator.uid], path)
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
            each.regions = regions
            if (scope, "@captured") not in each.heap:
                each.heap.forget_owner(scope)
            each.frame.done[call.site] = call.result or each.result or Const(None)
            each.result = None
            if each.exit == "return":
                each.exit = None
        ended = self.merged(ended)
        self.escaped.extend(each for each in ended if each.exit is not None)
        return [each for each in ended if each.exit is None]

    # Statements

    def block(self, body: list[ast.stmt], paths: list[Path]) -> list[Path]:
        """Execute statements in order on every path that is still going on."""
        left: list[Path] = []
        for statement in body:
            going: list[Path] = []
            for path in paths:
                for after in self.statement(statement, path):
                    (going if after.exit is None else left).append(after)
            left.extend(self.escaped)
            self.escaped = []
            paths = self.merged(going)
            if not paths:
                break
        return [*paths, *left]

    def statement(self, node: ast.stmt, path: Path) -> list[Path]:
        """Execute one statement."""
        self.spend()
        method: Callable[[ast.stmt, Path], list[Path]] | None
        method = getattr(self, "_do_" + type(node).__name__, None)
        return method(node, path) if method else [path]

    def _do_Expr(self, node: ast.Expr, path: Path) -> list[Path]:
        return [each for each, _ in self.run(path, node.value)]

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
                for each, _ in self.attempt(current, lambda p, t=target: self._bound(t, value, p))
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
            library.augmented(self, node, left, right, current)
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

    def _do_Raise(self, node: ast.Raise, path: Path) -> list[Path]:
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
                each.facts[self.logic.question(value, each)] = True
                if self.logic.truth(value, each) is False:
                    each.facts[self.logic.question(value, each)] = False
            paths.append(each)
        return paths

    def _do_Global(self, node: ast.Global, path: Path) -> list[Path]:
        path.frame.global_names |= frozenset(node.names)
        return [path]

    def _do_Nonlocal(self, node: ast.Nonlocal, path: Path) -> list[Path]:
        path.frame.nonlocal_names |= frozenset(node.names)
        return [path]

    def _do_Delete(self, node: ast.Delete, path: Path) -> list[Path]:
        for target in node.targets:
            if isinstance(target, ast.Name):
                path.heap.forget((path.frame.scopes[0], target.id))
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

    # Branches

    def _do_If(self, node: ast.If, path: Path) -> list[Path]:
        paths: list[Path] = []
        for each, test in self.run(path, node.test):
            known = self.logic.truth(test, each)
            if known is not None:
                paths.extend(self.block(node.body if known else node.orelse, [each]))
                continue
            paths.extend(self._branches(node, each, test))
        return paths

    def _branches(self, node: ast.If, path: Path, test: Value) -> list[Path]:
        before = path.frame.occasional
        changing = before or self._changes(test, path)
        outcomes: list[list[Path]] = []
        undecided = [path]
        sides: dict[bool, list[Path]] = {True: [], False: []}
        while undecided:
            current = undecided.pop()
            known = self.logic.truth(test, current)
            if known is None:
                undecided.extend(self.split(current, self.logic.question(test, current)))
            else:
                current.frame.occasional = changing
                sides[known].append(current)
        for side, body in ((True, node.body), (False, node.orelse)):
            outcomes.append(self.block(body, self.merged(sides[side])))
        for outcome, other in (outcomes, outcomes[::-1]):
            if not any(each.exit for each in other):
                for each in outcome:
                    if each.exit is None:
                        each.frame.occasional = before
        return [*outcomes[0], *outcomes[1]]

    def _changes(self, test: Value, path: Path) -> bool:
        """Whether the answer can be another one in the next pass through the innermost loop."""
        condition = test.condition if isinstance(test, Choice) else test
        if not isinstance(condition, Thing):
            return False
        if condition.since != NOWHERE and condition.since >= path.frame.iteration:
            return True
        return self._counts(condition)

    def _counts(self, value: object) -> bool:
        """Whether a condition rests on a remainder, as the guards of accumulation do."""
        if not isinstance(value, Thing):
            return False
        operation, *operands = self.identities.description(value.uid)
        return operation == "Mod" or (
            operation in ("==", "not", "and", "or", "Lt", "Add", "Sub", "is None")
            and any(self._counts(operand) for operand in operands)
        )

    def _do_Match(self, node: ast.Match, path: Path) -> list[Path]:
        paths: list[Path] = []
        for each, _ in self.run(path, node.subject):
            for case in node.cases:
                paths.extend(self.block(case.body, [each.copy()]))
        return self.merged(paths)

    def _do_Try(self, node: ast.Try, path: Path) -> list[Path]:
        paths: list[Path] = []
        for each in self.block(node.body, [path]):
            if each.exit == "raise" and node.handlers:
                each.exit = None
                paths.extend(self.block(node.handlers[0].body, [each]))
            elif each.exit is None:
                paths.extend(self.block(node.orelse, [each]))
            else:
                paths.append(each)
        if not node.finalbody:
            return paths
        ended: list[Path] = []
        for each in paths:
            leaving, result = each.exit, each.result
            each.exit = None
            for done in self.block(node.finalbody, [each]):
                if done.exit is None:
                    done.exit, done.result = leaving, result
                ended.append(done)
        return ended

    _do_TryStar = _do_Try

    # Contexts

    def _do_With(self, node: ast.With | ast.AsyncWith, path: Path) -> list[Path]:
        return self._enter(node, 0, path)

    _do_AsyncWith = _do_With

    def _enter(self, node: ast.With | ast.AsyncWith, index: int, path: Path) -> list[Path]:
        if index == len(node.items):
            return self.block(node.body, [path])
        item = node.items[index]
        ended: list[Path] = []
        for each, value in self.attempt(
            path, lambda p: self.logic.pick(self.evaluate(item.context_expr, p), p)
        ):
            before = each.regions
            if isinstance(value, Thing) and value.kind == "autocast":
                self.enter_region(value, each.frame.module.span(item.context_expr), each)
            bound = [each]
            if item.optional_vars is not None:
                bound = self.bind_all([item.optional_vars], value, each)
            for current in bound:
                for done in self._enter(node, index + 1, current):
                    done.regions = before
                    ended.append(done)
        return ended

    # Loops

    def _do_For(self, node: ast.For | ast.AsyncFor, path: Path) -> list[Path]:
        paths: list[Path] = []
        for each, over in self.run(path, node.iter):
            over = self.logic.settled(over, each) or over
            items = over if isinstance(over, Pack) else each.known(over, "@items")
            known = isinstance(items, Pack) and 0 < len(items.items) <= MAX_ITEMS
            passes: list[Value | None] = [None] * LOOP_PASSES
            if known and isinstance(items, Pack):
                passes = list(items.items)

            def start(current: Path, item: Value | None, over: Value = over) -> list[Path]:
                value = self.each(over, node.iter, current) if item is None else item
                return self.bind_all([node.target], value, current)

            paths.extend(self._loop(node, each, passes, start))
        return paths

    _do_AsyncFor = _do_For

    def _do_While(self, node: ast.While, path: Path) -> list[Path]:
        paths: list[Path] = []
        for each, test in self.run(path, node.test):
            if self.logic.truth(test, each) is False:
                paths.append(each)
                continue
            paths.extend(self._loop(node, each, [None] * LOOP_PASSES, lambda current, _: [current]))
        return paths

    def _loop(
        self,
        node: ast.For | ast.AsyncFor | ast.While,
        path: Path,
        passes: list[Value | None],
        start: Callable[[Path, Value | None], list[Path]],
    ) -> list[Path]:
        """Execute the body once for each pass, and then what follows the loop."""
        outer: Iteration = path.frame.iteration
        occasional = path.frame.occasional
        depth = outer[0] + 1
        going, left = [path], []
        for index, item in enumerate(passes):
            number = self.identities.number("pass", node, path.frame.context, outer, index)
            started: list[Path] = []
            for each in going:
                each.frame.iteration = (depth, number)
                started.extend(start(each, item))
            going = []
            for each in self.block(node.body, started):
                each.frame.occasional = occasional
                each.facts = {
                    asked: a for asked, a in each.facts.items() if asked.since < (depth, 0)
                }
                if each.exit in (None, "continue"):
                    each.exit = None
                    going.append(each)
                else:
                    each.frame.iteration = outer
                    left.append(each)
            going = self.merged(going)
            if not going:
                break
        for each in going:
            each.frame.iteration = outer
        ended = self.block(node.orelse, going) if node.orelse else going
        for each in left:
            if each.exit == "break":
                each.exit = None
        return [*ended, *left]

    # Imports, resolved by the analysis

    @abstractmethod
    def import_module(self, name: str, path: Path) -> Value:
        """`import name`."""

    @abstractmethod
    def import_name(self, module: str, name: str, level: int, path: Path) -> Value:
        """`from module import name`; `level` counts the leading dots."""


def _name(node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.expr:
    return ast.Name(id=node.name, ctx=ast.Store())


"""Compound statements: branches, exceptions, contexts and loops."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import partial

from mpaudit.source.engine.binding import Enter
from mpaudit.source.engine.generator import Generators
from mpaudit.source.engine.matching import branches, chain
from mpaudit.source.engine.narrow import STEPPING, TRAINING
from mpaudit.source.engine.path import Fork, Frame, Path
from mpaudit.source.engine.values import (
    FALSE,
    NOWHERE,
    TRUE,
    Choice,
    Const,
    Iteration,
    Pack,
    Partial,
    Thing,
    Value,
)
from mpaudit.source.text.memo import for_a_while
from mpaudit.source.text.walk import walk
from mpaudit.source.trait.guard import GUARDED

MAX_ITEMS = 6
"""A container of so few known items is gone through item by item."""
PASS = 10
"""What a pass through a loop costs beside its statements, in evaluations of an expression."""
LASTING = frozenset(["==", "not", "and", "or", "Lt", "is None"])
"""Questions that an answer is kept to beyond a pass of a loop, if they are about the items."""
LOOP_PASSES = 2
"""Other loops run twice, so that what one pass leaves behind is seen by the next."""


class Compound(Generators):
    """Executes the statements that hold other statements."""

    # Branches

    def _do_Delete(self, node: ast.Delete, path: Path) -> list[Path]:
        paths = [path]
        for target in node.targets:
            if isinstance(target, ast.Name):
                for each in paths:
                    each.heap.forget((each.frame.scopes[0], target.id))
            elif isinstance(target, ast.Subscript):
                taken = partial(self._taken_out, target.value)
                paths = [done for each in paths for done, _ in self.attempt(each, taken)]
        return paths

    def _taken_out(self, container: ast.expr, path: Path) -> Value:
        """Note that a container no longer holds all that it was given."""
        value = self.evaluate(container, path)
        return path.learn(value, changed=TRUE) if isinstance(value, Thing) else value

    def _do_If(self, node: ast.If, path: Path) -> list[Path]:
        if _declares(node.test):
            return self._declared(node, path)
        paths: list[Path] = []
        before, asked = path.frame.occasional, set(path.facts)
        decided: dict[bool, list[Path]] = {True: [], False: []}
        for each, test in self.run(path, node.test):
            known = self.logic.truth(test, each)
            self.logic.remember(test, each)
            if node.test in self.guarding and not isinstance(test, Const):
                shifting = self._changes(test, each) and not self._counts(test)
                each.heap[GUARDED] = TRUE if shifting else FALSE
            if known is None:
                paths.extend(self._branches(node, each, test))
            elif any(self._changes(fact, each) for fact in each.facts.keys() - asked):
                each.frame.occasional = True
                decided[known].append(each)
            else:
                paths.extend(self.block(node.body if known else node.orelse, [each]))
        return [*paths, *self._sides(node, decided, before)]

    def _declared(self, node: ast.If, path: Path) -> list[Path]:
        """What is there for type checkers, who see what names mean; then what runs instead."""
        around, self.declaring = self.declaring, True
        try:
            declared = self.block(node.body, [path])
        finally:
            self.declaring = around
        going = [each for each in declared if each.exit is None]
        return [*self.block(node.orelse, going), *(e for e in declared if e.exit is not None)]

    def _branches(self, node: ast.If, path: Path, test: Value) -> list[Path]:
        before = path.frame.occasional
        changing = before or self._changes(test, path)
        undecided = [path]
        sides: dict[bool, list[Path]] = {True: [], False: []}
        while undecided:
            current = undecided.pop()
            known = self.logic.truth(test, current)
            if known is None:
                undecided.extend(self.split(current, self.logic.question(test, current)))
            else:
                current.frame.occasional = changing
                self.logic.remember(test, current)
                sides[known].append(current)
        return self._sides(node, sides, before)

    def _sides(self, node: ast.If, sides: dict[bool, list[Path]], before: bool) -> list[Path]:
        """Execute both branches; what follows is as occasional as `before` unless one of them left."""
        outcomes = [
            self.block(body, self.merged(sides[side]))
            for side, body in ((True, node.body), (False, node.orelse))
        ]
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
        asked = branches(node)
        if asked is not None:
            paths = self._do_If(asked, path)
            for made in chain(asked):  # of which nothing else of the file knows
                self.executed.pop(made, None)
            return paths
        paths = []
        for each, _ in self.run(path, node.subject):
            for case in node.cases:
                paths.extend(self.block(case.body, [each.copy()]))
        return self.merged(paths)

    def _do_Try(self, node: ast.Try, path: Path) -> list[Path]:
        paths: list[Path] = []
        self.guards += 1
        try:
            ended = self.block(node.body, [path])
        finally:
            self.guards -= 1
        for each in ended:
            if each.exit == "raise" and node.handlers:
                each.exit = None
                paths.extend(self.block(node.handlers[0].body, [each]))
            elif each.exit is None:
                paths.extend(self.block(node.orelse, [each]))
            else:
                paths.append(each)
        if not node.finalbody:
            return paths
        ended = []
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
            for done in self._within(node, index, value, each):
                done.regions = before
                ended.append(done)
        return ended

    def _within(
        self, node: ast.With | ast.AsyncWith, index: int, value: Value, path: Path
    ) -> list[Path]:
        """Enter the context `value`, and execute what is inside of it."""
        item = node.items[index]

        def inside(current: Path, bound: Value, _: Frame | None = None) -> list[Path]:
            paths = [current]
            if item.optional_vars is not None:
                paths = self.bind_all([item.optional_vars], bound, current)
            return [done for each in paths for done in self._enter(node, index + 1, each)]

        generator = self.generator(value, path)
        if generator is not None:
            return self.generate(generator, item.context_expr, path, inside)
        if not isinstance(value, Thing):
            return inside(path, value)
        if value.kind == "autocast":
            self.enter_region(value, path.frame.module.span(item.context_expr), path)
            return inside(path, value)
        ended: list[Path] = []
        for each in self.call_method(value, "__enter__", item.context_expr, path):
            for done in inside(each, value):
                leaving, result = done.exit, done.result
                done.exit = None
                for left in self.call_method(value, "__exit__", item.context_expr, done):
                    left.exit, left.result = leaving, result
                    ended.append(left)
        return ended

    # Loops

    def _do_For(self, node: ast.For | ast.AsyncFor, path: Path) -> list[Path]:
        paths: list[Path] = []
        for each, over in self.run(path, node.iter):
            over = self.logic.settled(over, each) or over
            counted = each.known(over, "@enumerated")
            generator = self.generator(counted or over, each)
            if generator is not None:
                paths.extend(self._generated(node, generator, each, counted=counted is not None))
                continue
            items = over if isinstance(over, Pack) else each.known(over, "@items")
            known = isinstance(items, Pack) and 0 < len(items.items) <= MAX_ITEMS
            passes: list[Value | None] = [None] * self._passes(node, each)
            length = each.known(over, "@length")
            if known and isinstance(items, Pack):
                passes = list(items.items)
            elif isinstance(length, Const) and isinstance(length.value, int):
                passes = passes[: length.value]

            def start(current: Path, item: Value | None, over: Value = over) -> list[Path]:
                value = self.each(over, node.iter, current) if item is None else item
                return self.bind_all([node.target], value, current)

            paths.extend(self._loop(node, each, passes, start))
        return paths

    _do_AsyncFor = _do_For

    def _generated(
        self, node: ast.For | ast.AsyncFor, generator: Partial, path: Path, *, counted: bool
    ) -> list[Path]:
        """A loop over a generator of the project: the body runs where it yields."""
        outer, occasional = path.frame.iteration, path.frame.occasional

        def body(current: Path, value: Value, inner: Frame) -> list[Path]:
            current.frame.iteration = inner.iteration
            if counted:
                number = self.identities.number("index", node, inner.iteration)
                value = Pack((Thing(number, since=inner.iteration), value))
            paths = self.block(node.body, self.bind_all([node.target], value, current))
            for each in paths:
                each.frame.iteration, each.frame.occasional = outer, occasional
                if each.exit == "continue":
                    each.exit = None
            return paths

        ended = self.generate(generator, node.iter, path, body)
        for each in ended:
            if each.exit == "break":
                each.exit = None
        return ended

    def _do_While(self, node: ast.While, path: Path) -> list[Path]:
        paths: list[Path] = []
        for each, test in self.run(path, node.test):
            if self.logic.truth(test, each) is False:
                paths.append(each)
                continue
            passes: list[Value | None] = [None] * self._passes(node, each)
            paths.extend(self._loop(node, each, passes, lambda current, _: [current]))
        return paths

    def _passes(self, node: ast.For | ast.AsyncFor | ast.While, path: Path) -> int:
        """How often a loop runs: once where the budget is shortest and a loop inside is the training."""
        if self.narrow is not STEPPING:
            return LOOP_PASSES
        inner = (n for s in node.body for n in walk(s) if isinstance(n, (ast.For, ast.While)))
        idle = (self.relevance.idle(path.frame.module, each, TRAINING) for each in inner)
        return LOOP_PASSES if all(idle) else 1

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
        repeat = self.repeat(len(passes))
        for index, item in enumerate(passes):
            repeat.turn(self.budget)
            self.spend(PASS)
            number = self.identities.number("pass", node, path.frame.context, outer, index)
            started: list[Path] = []
            for each in going:
                each.frame.iteration = (depth, number)
                if index and item is None:
                    self._count(node, each)
                started.extend(start(each, item))
            going = []
            for each in self.block(node.body, started):
                each.frame.occasional = occasional
                each.facts = {
                    asked: answer
                    for asked, answer in each.facts.items()
                    if asked.since < (depth, 0) or self._lasts(asked, depth)
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
        self.repeats.pop()
        for each in going:
            each.frame.iteration = outer
        ended = self.block(node.orelse, going) if node.orelse else going
        for each in left:
            if each.exit == "break":
                each.exit = None
        return [*ended, *left]

    def _lasts(self, asked: object, depth: int) -> bool:
        """Whether the answer holds in the next loop over the same things, too: it rests on an item."""
        if not isinstance(asked, Thing) or asked.since < (depth, 0):
            return True
        operation, *operands = self.identities.description(asked.uid)
        if operation in ("each", "index"):
            return not isinstance(operands[1], ast.AST)
        return operation in LASTING and all(self._lasts(each, depth) for each in operands)

    def _count(self, node: ast.For | ast.AsyncFor | ast.While, path: Path) -> None:
        """Counters stand for any number from the second pass on: it is every later pass, too."""
        iteration = path.frame.iteration
        for target in _counters(node):
            try:
                held = self.evaluate(target, path)
            except (Fork, Enter):
                continue
            if isinstance(held, Const) and type(held.value) in (int, float):
                number = self.identities.number("count", ast.dump(target), iteration)
                self.assign(target, Thing(number, since=iteration), path)


@for_a_while(4096)
def _counters(node: ast.For | ast.AsyncFor | ast.While) -> list[ast.expr]:
    """What a loop's body adds to."""
    return [
        each.target
        for statement in node.body
        for each in walk(statement)
        if isinstance(each, ast.AugAssign) and isinstance(each.target, (ast.Name, ast.Attribute))
    ]


def _declares(test: ast.expr) -> bool:
    """Whether a condition is true for type checkers only."""
    name = test.id if isinstance(test, ast.Name) else getattr(test, "attr", None)
    return name == "TYPE_CHECKING"

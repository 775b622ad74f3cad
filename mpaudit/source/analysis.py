"""From files to verdicts: the entry points of a program, and the engine that executes them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import partial

import mpaudit.source.library  # noqa: F401 - its summaries register themselves
from mpaudit import protocols
from mpaudit.protocols.protocol import Broken, Protocol, Verdict, within
from mpaudit.source.engine import registry
from mpaudit.source.engine.allowance import Oversized
from mpaudit.source.engine.annotation import stated
from mpaudit.source.engine.binding import Enter, Exhausted
from mpaudit.source.engine.driver import AnyFunction, drivers
from mpaudit.source.engine.facts import PLAIN, parts
from mpaudit.source.engine.heap import Heap, Layer
from mpaudit.source.engine.importing import BUDGET, Importing, State
from mpaudit.source.engine.member import left_open
from mpaudit.source.engine.narrow import NARROWNESS, judged
from mpaudit.source.engine.path import Frame, Path, lookup
from mpaudit.source.engine.relevance import Relevance
from mpaudit.source.engine.share import Shares
from mpaudit.source.engine.standing import Standing
from mpaudit.source.engine.values import (
    Class,
    Const,
    Function,
    Imported,
    Thing,
    Value,
)
from mpaudit.source.engine.wrapper import passes_on
from mpaudit.source.text.memo import forget
from mpaudit.source.text.module import Module
from mpaudit.source.text.project import Project
from mpaudit.source.text.walk import statements, walk

NARROW_BUDGET = 50_000
"""The same, once only what handles scalers, regions and gradients is followed."""
KEPT = 12_000
"""What is kept for narrower attempts, of which few need more."""
FILE_BUDGET = 300_000
"""Evaluation steps for all entry points of a file, some seconds."""
OWN = 0.5
"""How much of that is kept from what a file inherits: where that was too much, what is its own is entered."""
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
"""What is executed of a module's body that is too long to be executed."""
GRADIENTS = frozenset(["backward", "unscale_", "clip_grad_norm_", "clip_grad_value_", "step"])
"""What makes a function worth another look where no caller came by."""
MAX_INSTANCES = 2
"""States that a class' `__init__` leaves behind from which its methods are entered."""


class Engine(Importing):
    """Executes the modules of one project abstractly."""

    def __init__(self, project: Project) -> None:
        self.state = State()
        super().__init__(self.state.identities, BUDGET)
        self.project = project
        self.relevance = Relevance(project)
        self.shares = Shares(self.relevance)
        self.followed = self.state.followed
        self.verdicts = []
        self.escaped = []
        self.executed, self.turn = {}, 0
        self.oversized = Oversized()
        self.guards = 0
        self.holes = []
        self.places = {}
        self.exhausted: list[str] = []
        self.left = FILE_BUDGET
        self.lasting = False
        """Whether the module that was audited last has made what may be met elsewhere."""
        self.fallen = 0
        """Of so many characters of text the tree was dropped since `forget`."""
        self.instances: dict[int, tuple[Thing, list[Path]]] = {}
        self.ended: list[Protocol] = []
        """Where the protocols stood when the body of a module was through."""

    def audit(self, module: Module) -> list[Verdict]:
        """The verdicts on a module: its body as a script, then every function nobody called."""
        verdicts: list[Verdict] = []
        self.ended = []
        self.left, self.exhausted, self.touched = FILE_BUDGET, [], {module.filename}
        self.narrowed = False
        heap = self._entry("the module's body", lambda: self._body(module, "__main__"), verdicts)
        if not len(heap):  # too much to follow: what it defines is still there to be entered
            skeleton: list[ast.stmt] = [s for s in module.tree.body if isinstance(s, DEFINITIONS)]
            heap = self._entry("", lambda: self._body(module, module.name, skeleton), verdicts)
        left = Layer()
        for place, value in heap:
            left.add(place, value)
        heap = Heap((left, self.state.world))
        after = self.ended
        kept = int(self.left * OWN)
        self.left -= kept
        for heir, driver in self._driven(module, heap):
            self.ended = after
            enter = partial(self._method, module, heap, heir, driver)
            self._entry(f"{heir.name}.{driver}", enter, verdicts)
        self.left += kept
        for owner, node in _definitions(module):
            name = None if owner is None else owner.name
            if not self.relevance.entering(module, name, node.name):
                continue
            passed_by = self._passed_by(node) if node in self.followed else None
            if node in self.for_heirs and owner is not None and self._overridden(module, owner):
                passed_by = None
            if passed_by is None and owner is None and self._passes_on(module, heap, node):
                continue
            if passed_by is None or passed_by:
                self.followed.pop(node, None)
                self.ended = after
                found: list[Verdict] = []
                title = node.name if name is None else f"{name}.{node.name}"
                self._entry(title, partial(self._function, module, heap, owner, node), found)
                verdicts.extend(v for v in found if passed_by is None or _stands_in(v, passed_by))
        self.instances.clear()  # nobody asks for those of this file again, and they hold much
        self.lasting = any(isinstance(v, Thing) and v.kind not in PLAIN for _, v in heap)
        return verdicts

    def leave(self, module: Module) -> None:
        """Forget the tree of the module that was audited last, unless something of it may be met again.

        Of what is imported, functions are known by their nodes, and so are objects that it makes.
        """
        if module.kept or self.lasting or module.filename in self.state.absorbed:
            self.keep(module)
        self.keep(*(each for each in self.state.trees if each.laden))
        if module in self.state.trees:
            return
        for node in statements(module.tree):
            self.followed.pop(node, None)
            self.executed.pop(node, None)
            self.for_heirs.discard(node)
            self.oversized.forget(node)
        self.relevance.leave(module)
        self.fallen += len(module.text)
        module.fell()

    def forget(self) -> None:
        """Let go of the nodes of trees that fell, which are still remembered here and there."""
        self.fallen = 0
        self.shares.forget()
        forget()

    def _passed_by(self, function: ast.AST) -> set[int]:
        """The rows of a function that was followed, but not there, and that handle gradients."""
        return {
            row
            for node in walk(function)
            if isinstance(node, (ast.Expr, ast.Assign)) and node not in self.executed
            if any(isinstance(n, ast.Attribute) and n.attr in GRADIENTS for n in walk(node))
            for row in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }

    def _overridden(self, module: Module, owner: ast.ClassDef) -> bool:
        """Whether a class has a method that matters and nobody in view calls: heirs have their own."""
        return any(
            isinstance(node, AnyFunction)
            and node not in self.followed
            and self.relevance.entering(module, owner.name, node.name)
            for node in owner.body
        )

    def _passes_on(self, module: Module, heap: Heap, node: AnyFunction) -> bool:
        """Whether a function leads to nothing but what was followed from elsewhere."""

        def meaning(name: str) -> Function | None:
            found = heap.get((self._scope(module), name))
            if isinstance(found, Imported) and found.attribute is not None:
                found = heap.get((self._scope(found.module), found.attribute))
            return found if isinstance(found, Function) else None

        def done(function: Function) -> bool:
            return function.node in self.followed and not self._passed_by(function.node)

        return passes_on(node, self.relevance.through(module, node.name), meaning, done)

    def _entry(self, title: str, execute: Callable[[], Heap], verdicts: list[Verdict]) -> Heap:
        """Execute one entry point; its verdicts count only if it could be followed to its end.

        Where the budget does not allow to follow everything that matters, less is followed, as
        `mpaudit.source.engine.narrow` says, and only what that allows is judged. Each attempt leaves
        something to the narrower ones.
        """
        for self.narrow in NARROWNESS:
            bound = NARROW_BUDGET if self.narrow else BUDGET
            kept = 0 if self.narrow is NARROWNESS[-1] else min(KEPT, self.left // 4)
            allowed, followed = min(bound, self.left - kept), self.followed.copy()
            self.verdicts, self.escaped, self.guards, self.budget = [], [], 0, allowed
            self.holes = []
            attempt = self.attempt_within(0)
            self.turn += 1
            self.fruitless.clear()
            try:
                heap = execute()
            except (Exhausted, RecursionError):
                self.followed.clear()
                self.followed.update(
                    followed
                )  # what was not followed to the end is entered for itself
            else:
                self.narrowed |= self.narrow is not None
                found = within(self.verdicts)
                verdicts.extend(judged(found, self.narrow))
                return heap
            finally:
                self.attempted(attempt)
                self.left -= allowed - max(self.budget, 0)
        if title:
            self.exhausted.append(title)
        return Heap((self.state.world,))

    def _body(self, module: Module, name: str, body: list[ast.stmt] | None = None) -> Heap:
        path = self._start(module, Heap((self.state.world,)))
        path.heap[(self._scope(module), "__name__")] = Const(name)
        ended = self.block(module.tree.body if body is None else body, [path])
        self.ended = ended[0].standing.machines if ended else []
        return ended[0].heap if ended else path.heap

    def _start(self, module: Module, heap: Heap, *, later: bool = False) -> Path:
        frame = Frame(module, (self._scope(module),), 0)
        machines = [machine.later() for machine in self.ended] if later else []
        standing = Standing.of(machines or protocols.machines())
        return Path(standing, heap.copy(), frames=[frame])

    def _function(
        self,
        module: Module,
        heap: Heap,
        owner: ast.ClassDef | None,
        node: ast.FunctionDef | ast.AsyncFunctionDef,
    ) -> Heap:
        path = self._start(module, heap, later=True)
        scope = self._scope(module)
        if owner is None:
            value = heap.get((scope, node.name))
            if isinstance(value, Imported) and not node.decorator_list:
                value = self.function(node, path)  # a script's main block imports its own file
            if isinstance(value, Function) and value.node is node:
                self._call(value, (), path)
            return heap
        return heap if node in self.followed else self._method(module, heap, owner, node.name)

    def _driven(self, module: Module, heap: Heap) -> Iterator[tuple[ast.ClassDef, str]]:
        """(class, inherited method) of the methods that call what a class of this file overrides."""
        for owner in module.tree.body:
            cls = self._class(owner, heap) if isinstance(owner, ast.ClassDef) else None
            if cls is None:
                continue
            telling = {
                node.name
                for node in cls.node.body
                if isinstance(node, AnyFunction) and node not in self.followed
                if self.relevance.entering(module, cls.node.name, node.name)
            }
            for name in drivers(cls, telling) if telling else ():
                yield cls.node, name

    def _class(self, node: ast.ClassDef, heap: Heap) -> Class | None:
        """A class of a file, whatever its name stands for by now: a main block imports its own file."""
        found = heap.get((self.identities.number("class", node, 0), "@class"))
        return found if isinstance(found, Class) else None

    def _method(self, module: Module, heap: Heap, owner: ast.ClassDef, name: str) -> Heap:
        """Execute a method of an object that nobody in view made."""
        path = self._start(module, heap, later=True)
        cls = self._class(owner, heap)
        method = lookup(path, cls, name) if cls is not None else None
        if cls is None or not isinstance(method, Function):
            return heap
        if cls.uid not in self.instances:
            self.instances[cls.uid] = self._instance(cls, path)
        receiver, paths = self.instances[cls.uid]
        for each in paths[:MAX_INSTANCES]:
            start = each.copy()
            registry.entry(receiver, cls, start)
            self._call(method, (receiver,), start)
        return heap

    def _instance(self, cls: Class, path: Path) -> tuple[Thing, list[Path]]:
        """An instance as its `__init__` leaves it, called with unknown arguments.

        A class that only raises there has class methods, which need no instance.
        """
        kind, _ = registry.kind_of(cls)
        number = self.identities.number("instance", cls.uid)
        made = Thing(number, kind or "instance")
        path.learn(made, **{"class": cls})
        init, paths = lookup(path, cls, "__init__"), [path]
        if isinstance(init, Function):
            before = path.copy()
            self.building = cls.module.filename
            try:
                paths = self._call(init, (made,), path) or [before]
            finally:
                self.building = None
        for each in paths:
            for name in sorted(left_open(made, cls, each)):
                held = self.derive(self.term(".", made, Const(name)), (made,), each)
                each.heap[(made.uid, name)] = held
        return made, sorted(paths, key=lambda each: not _scales(made, each))

    def _call(self, function: Function, arguments: tuple[Value, ...], path: Path) -> list[Path]:
        if not self.relevance.following(function):
            return [path]
        self.entered(function)
        context = self.identities.number("entry", function.node)
        scope = self.identities.number("scope", function.node, context)
        frame = Frame(function.module, (scope, *function.scopes), context, function)
        self.bind(function, frame, arguments, {}, path, anyhow=True)
        self._annotate(function, frame, path)
        site = ast.Name(id=function.name, ctx=ast.Load())
        return self.follow(path, Enter(site, function, frame, None))

    def _annotate(self, function: Function, frame: Frame, path: Path) -> None:
        """Give unknown parameters the kind that their annotation states."""
        path.frames.append(frame)
        spec = function.node.args
        for parameter in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs):
            value = path.heap.get((frame.scopes[0], parameter.arg))
            if parameter.annotation is None or not isinstance(value, Thing) or value.kind:
                continue
            held = stated(self, value, parameter.annotation, path)
            path.heap[(frame.scopes[0], parameter.arg)] = held
        path.frames.pop()


def _scales(instance: Thing, path: Path) -> bool:
    """Whether an object holds a scaler that is certainly there, and switched on."""
    return any(
        all(
            isinstance(part, Thing)
            and part.kind == "GradScaler"
            and path.known(part, "@off") is None
            for part in parts(value, path)
        )
        for name, value in path.heap.of(instance.uid)
        if not name.startswith("@")
    )


def _stands_in(verdict: Verdict, rows: set[int]) -> bool:
    return isinstance(verdict, Broken) and verdict.problem.span.start.row in rows


def _definitions(
    module: Module,
) -> Iterator[tuple[ast.ClassDef | None, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """The functions and methods of a file; of a class, those first that no other method calls."""
    for node in module.tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield None, node
    for owner in module.tree.body:
        if not isinstance(owner, ast.ClassDef):
            continue
        methods = [n for n in owner.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
        used = {n.attr for method in methods for n in walk(method) if isinstance(n, ast.Attribute)}
        for method in sorted(methods, key=lambda m: (m.name in used, m.name == "__init__")):
            yield owner, method

"""From files to verdicts: the entry points of a program, and the engine that executes them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from mpaudit import protocols
from mpaudit.protocols.protocol import Broken, Protocol, Verdict, within
from mpaudit.source import library
from mpaudit.source.call import Enter, Exhausted
from mpaudit.source.compound import Compound
from mpaudit.source.deprecated_api import STARS
from mpaudit.source.facts import parts
from mpaudit.source.heap import Heap, Layer, Place
from mpaudit.source.module import Module
from mpaudit.source.narrow import NARROWNESS, STEPPING, of_order
from mpaudit.source.path import Fork, Frame, Identities, Path, Standing, lookup
from mpaudit.source.project import Project
from mpaudit.source.relevance import Relevance
from mpaudit.source.roles import Roles, roles
from mpaudit.source.share import Shares
from mpaudit.source.values import (
    Class,
    Const,
    External,
    Function,
    Imported,
    Namespace,
    Thing,
    Value,
)
from mpaudit.source.walk import walk

BUDGET = 30_000
"""Evaluation steps for one entry point at first; what needs more is followed narrowly."""
NARROW_BUDGET = 50_000
"""The same, once only what handles scalers, regions and gradients is followed."""
FILE_BUDGET = 300_000
"""Evaluation steps for all entry points of a file, some seconds."""
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
"""What is executed of a module's body that is too long to be executed."""
GRADIENTS = frozenset(["backward", "unscale_", "clip_grad_norm_", "clip_grad_value_", "step"])
"""What makes a function worth another look where no caller came by."""
MAX_INSTANCES = 2
"""States that a class' `__init__` leaves behind from which its methods are entered."""


@dataclass(slots=True)
class _Ending:
    """What an imported module leaves behind besides its names."""

    machines: list[Protocol] = field(default_factory=list)
    settings: dict[Place, Value] = field(default_factory=dict)


@dataclass(slots=True)
class _State:
    """What is shared by all entry points of a run."""

    identities: Identities = field(default_factory=Identities)
    world: Layer = field(default_factory=Layer)
    absorbed: dict[str, _Ending] = field(default_factory=dict)
    roles: dict[str, Roles] = field(default_factory=dict)
    followed: dict[ast.AST, None] = field(default_factory=dict)


class Engine(Compound):
    """Executes the modules of one project abstractly."""

    def __init__(self, project: Project) -> None:
        self.state = _State()
        super().__init__(self.state.identities, BUDGET)
        self.project = project
        self.relevance = Relevance(project)
        self.shares = Shares(self.relevance)
        self.followed = self.state.followed
        self.verdicts = []
        self.escaped = []
        self.executed, self.turn = {}, 0
        self.guards = 0
        self.holes = []
        self.places = {}
        self.exhausted: list[str] = []
        self.left, self.exhausted = FILE_BUDGET, []
        self.instances: dict[int, tuple[Thing, list[Path]]] = {}
        self.ended: list[Protocol] = []
        """Where the protocols stood when the body of a module was through."""

    def audit(self, module: Module) -> list[Verdict]:
        """The verdicts on a module: its body as a script, then every function nobody called."""
        verdicts: list[Verdict] = []
        self.ended = []
        self.left, self.exhausted = FILE_BUDGET, []
        heap = self._entry("the module's body", lambda: self._body(module, "__main__"), verdicts)
        if not len(heap):  # too much to follow: what it defines is still there to be entered
            skeleton: list[ast.stmt] = [s for s in module.tree.body if isinstance(s, DEFINITIONS)]
            heap = self._entry("", lambda: self._body(module, module.name, skeleton), verdicts)
        left = Layer()
        for place, value in heap:
            left.add(place, value)
        heap = Heap((left, self.state.world))
        after = self.ended
        for owner, node in _definitions(module):
            name = None if owner is None else owner.name
            if not self.relevance.entering(module, name, node.name):
                continue
            passed_by = self._passed_by(node) if node in self.followed else None
            if passed_by is None or passed_by:
                self.followed.pop(node, None)
                self.ended = after
                found: list[Verdict] = []
                title = node.name if name is None else f"{name}.{node.name}"
                self._entry(title, partial(self._function, module, heap, owner, node), found)
                verdicts.extend(v for v in found if passed_by is None or _stands_in(v, passed_by))
        self.instances.clear()  # nobody asks for those of this file again, and they hold much
        return verdicts

    def _passed_by(self, function: ast.AST) -> set[int]:
        """The rows of a function that was followed, but not there, and that handle gradients."""
        return {
            row
            for node in walk(function)
            if isinstance(node, ast.Expr | ast.Assign) and node not in self.executed
            if any(isinstance(n, ast.Attribute) and n.attr in GRADIENTS for n in walk(node))
            for row in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }

    def _entry(self, title: str, execute: Callable[[], Heap], verdicts: list[Verdict]) -> Heap:
        """Execute one entry point; its verdicts count only if it could be followed to its end.

        Where the budget does not allow to follow everything that matters, only what handles scalers,
        regions and gradients is followed, then only what makes and applies gradients; only the order
        of things is judged by that.
        """
        for self.narrow in NARROWNESS:
            bound = NARROW_BUDGET if self.narrow else BUDGET
            allowed, followed = min(bound, self.left), self.followed.copy()
            self.verdicts, self.escaped, self.guards, self.budget = [], [], 0, allowed
            self.holes, self.floor = [], 0
            self.turn += 1
            self.oversized.clear()
            self.fruitless.clear()
            try:
                heap = execute()
            except (Exhausted, RecursionError):
                self.followed.clear()
                self.followed.update(
                    followed
                )  # what was not followed to the end is entered for itself
            else:
                found = within(self.verdicts)
                verdicts.extend(of_order(found) if self.narrow is STEPPING else found)
                return heap
            finally:
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
        standing = Standing(machines or protocols.machines())
        return Path(standing, heap.copy(), frames=[frame])

    def _scope(self, module: Module) -> int:
        return self.identities.number("module", module.filename)

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
        cls = heap.get((scope, owner.name))
        if not isinstance(cls, Class):
            return heap
        method = lookup(path, cls, node.name)
        if not isinstance(method, Function) or node in self.followed:
            return heap
        if cls.uid not in self.instances:
            self.instances[cls.uid] = self._instance(cls, path)
        receiver, paths = self.instances[cls.uid]
        for each in paths[:MAX_INSTANCES]:
            start = each.copy()
            library.moved_elsewhere(receiver, cls, start)
            self._call(method, (receiver,), start)
        return heap

    def _instance(self, cls: Class, path: Path) -> tuple[Thing, list[Path]]:
        """An instance as its `__init__` leaves it, called with unknown arguments.

        A class that only raises there has class methods, which need no instance.
        """
        kind, _ = library.kind_of(cls)
        number = self.identities.number("instance", cls.uid)
        made = Thing(number, kind or "instance")
        path.learn(made, **{"class": cls})
        init = lookup(path, cls, "__init__")
        if not isinstance(init, Function):
            return made, [path]
        before = path.copy()
        paths = self._call(init, (made,), path) or [before]
        return made, sorted(paths, key=lambda each: not _scales(made, each))

    def _call(self, function: Function, arguments: tuple[Value, ...], path: Path) -> list[Path]:
        if not self.relevance.following(function):
            return [path]
        self.followed[function.node] = None
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
            if isinstance(parameter.annotation, ast.Name | ast.Attribute):
                try:
                    stated = self.evaluate(parameter.annotation, path)
                except (Enter, Fork):  # it depends on what is not known here: no statement
                    continue
                if isinstance(stated, External):
                    kind = library.stated_kind(stated.name)
                    path.heap[(frame.scopes[0], parameter.arg)] = Thing(value.uid, kind)
        path.frames.pop()

    # Imports

    def import_module(self, name: str, path: Path) -> Value:
        """`import name`."""
        found = self.project.find(name, path.frame.module)
        return self._lazily(found, None, path) if found is not None else External(name)

    def import_name(self, module: str, name: str, level: int, path: Path) -> Value:
        """`from module import name`."""
        importer = path.frame.module
        if name == "*":
            return self._star(module, level, path)
        found = self.project.find(module, importer, level)
        if found is not None and not self._defines(found, name):
            inner = self.project.find(f"{module}.{name}" if module else name, importer, level)
            if inner is not None:
                return self._lazily(inner, None, path)
        if found is None and level:
            inner = self.project.find(f"{module}.{name}" if module else name, importer, level)
            return (
                self._lazily(inner, None, path)
                if inner is not None
                else External(f".{module}.{name}")
            )
        if found is not None:
            return self._lazily(found, name, path)
        inner = self.project.find(f"{module}.{name}", importer)
        return (
            self._lazily(inner, None, path) if inner is not None else External(f"{module}.{name}")
        )

    def _lazily(self, module: Module, attribute: str | None, path: Path) -> Imported:
        """An import whose module is executed when it is used; one that may set a policy, at once."""
        if "keras" in module.text:
            self._absorb(module, path)
        return Imported(module, attribute)

    def _star(self, module: str, level: int, path: Path) -> Value:
        found = self.project.find(module, path.frame.module, level)
        if found is not None:
            self._absorb(found, path)
            for name, value in self.state.world.owners.get(self._scope(found), {}).items():
                if not name.startswith(("_", "@")):
                    path.heap[(path.frame.scopes[0], name)] = value
        for name in STARS.get(module, ()) if found is None and not level else ():
            path.heap[(path.frame.scopes[0], name)] = External(f"{module}.{name}")
        return External(module)

    @staticmethod
    def _defines(module: Module, name: str) -> bool:
        for node in module.tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
                return True
        return any(node.id == name for node in module.every(ast.Name))

    def imported(self, value: Imported, path: Path) -> Value:
        """What an import brings in; the module is executed once, on its own."""
        self._absorb(value.module, path)
        scope = self._scope(value.module)
        if value.attribute is None:
            return Namespace(value.module, scope)
        found = path.heap.get((scope, value.attribute))
        if isinstance(found, Imported) and found != value:
            return self.imported(found, path)
        if found is None or isinstance(found, Imported):
            number = self.identities.number("global", value.module.filename, value.attribute)
            return Thing(number, text=value.attribute)
        return found

    def _absorb(self, module: Module, path: Path) -> None:
        """Execute an imported module once, on its own; what it defines is there for every path.

        Where the protocols then stand, and settings (owners below zero), go to the importing path.
        """
        if module.filename not in self.state.absorbed:
            self.state.absorbed[module.filename] = ending = _Ending()
            before = self.verdicts, self.escaped, self.budget, self.ended, self.guards
            self.verdicts, self.escaped, self.ended, self.guards = [], [], [], 0
            self.budget = BUDGET
            try:
                heap = self._body(module, module.name)
            except (Exhausted, RecursionError):
                heap = Heap(())
            ending.machines = self.ended if any(m.state or m.facts for m in self.ended) else []
            self.verdicts, self.escaped, self.budget, self.ended, self.guards = before
            for place, value in heap:
                if place[0] >= 0:
                    self.state.world.add(place, value)
                else:
                    ending.settings[place] = value
        ending = self.state.absorbed[module.filename]
        if ending.machines:
            path.standing = path.standing.importing(ending.machines)
        for place, value in ending.settings.items():
            if place not in path.heap:
                path.heap[place] = value

    def submodule(self, base: Namespace, name: str) -> Value | None:
        """`package.module`."""
        found = self.project.find(name, base.module, 1)
        return Namespace(found, self._scope(found)) if found is not None else None

    def roles(self, path: Path) -> Roles:
        """The roles that the file in progress gives away."""
        module = path.frame.module
        known = self.state.roles.get(module.filename)
        if known is None:
            known = self.state.roles[module.filename] = roles(module)
        return known


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
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield None, node
    for owner in module.tree.body:
        if not isinstance(owner, ast.ClassDef):
            continue
        methods = [n for n in owner.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        used = {n.attr for method in methods for n in walk(method) if isinstance(n, ast.Attribute)}
        for method in sorted(methods, key=lambda m: (m.name in used, m.name == "__init__")):
            yield owner, method

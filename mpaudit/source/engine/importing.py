"""Imports: where a name of another file comes from, and what executing that file leaves behind."""

from __future__ import annotations

import ast
from abc import abstractmethod

from msgspec import Struct, field

from mpaudit.protocols.protocol import Protocol
from mpaudit.source.api.deprecated import STARS
from mpaudit.source.engine.binding import Exhausted
from mpaudit.source.engine.compound import Compound
from mpaudit.source.engine.heap import Heap, Layer, Place
from mpaudit.source.engine.path import Identities, Path
from mpaudit.source.engine.values import External, Imported, Namespace, Thing, Value
from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names
from mpaudit.source.text.project import Project
from mpaudit.source.trait.roles import Roles, roles

BUDGET = 30_000
"""Evaluation steps for one entry point at first; what needs more is followed narrowly."""

WHOLE = 1_000_000
"""The trees of so many characters of imported files are whole, for who looks at them again."""
SILENT = ("library", "list", "dict", "device", "finfo")
"""The kinds of things of which no protocol notes anything by themselves."""


class _Ending(Struct):
    """What an imported module leaves behind besides its names."""

    machines: list[Protocol] = field(default_factory=list)
    settings: dict[Place, Value] = field(default_factory=dict)
    telling: bool = False
    """Whether it makes what a protocol may watch, for all who import it."""


class State(Struct):
    """What is shared by all entry points of a run."""

    identities: Identities = field(default_factory=Identities)
    world: Layer = field(default_factory=Layer)
    absorbed: dict[str, _Ending] = field(default_factory=dict)
    roles: dict[str, Roles] = field(default_factory=dict)
    stars: dict[str, list[Module]] = field(default_factory=dict)
    """The files of which a file declares, by a star, to have all names; nothing runs that import."""
    followed: dict[ast.AST, None] = field(default_factory=dict)
    trees: dict[Module, None] = field(default_factory=dict)
    """The modules whose trees stay: functions and objects of theirs may be met again."""
    whole: dict[Module, None] = field(default_factory=dict)
    """Those that may have bodies of functions of which nothing was executed, the oldest first."""


class Importing(Compound):
    """Resolves imports; a module of the project is executed once, when something of it is used."""

    project: Project
    state: State
    ended: list[Protocol]

    @abstractmethod
    def _body(self, module: Module, name: str) -> Heap:
        """Execute the body of a module under a name; what it leaves behind."""

    def _scope(self, module: Module) -> int:
        return self.identities.number("module", module.filename)

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
        if found is not None and not found.defines(name):
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
        if module.mentions("keras"):
            self._absorb(module, path)
        return Imported(module, attribute)

    def _star(self, module: str, level: int, path: Path) -> Value:
        importer = path.frame.module
        found = self.project.find(module, importer, level)
        if found is not None and self.declaring:
            self.state.stars.setdefault(importer.filename, []).append(found)
        elif found is not None:
            self._absorb(found, path)
            for name, value in self.state.world.owners.get(self._scope(found), {}).items():
                if not name.startswith(("_", "@")):
                    path.heap[(path.frame.scopes[0], name)] = value
        for name in STARS.get(module, ()) if found is None and not level else ():
            path.heap[(path.frame.scopes[0], name)] = External(f"{module}.{name}")
        return External(module)

    def imported(self, value: Imported, path: Path) -> Value:
        """What an import brings in; the module is executed once, on its own."""
        return self._brought(value, path, frozenset())

    def _brought(self, value: Imported, path: Path, seen: frozenset[Imported]) -> Value:
        self._absorb(value.module, path)
        module, name, scope = value.module, value.attribute, self._scope(value.module)
        if name is None:
            return Namespace(module, scope)
        found = path.heap.get((scope, name)) or self._starred(module, name, path, frozenset())
        if isinstance(found, Imported) and found not in seen:
            return self._brought(found, path, seen | {value})
        if found is not None and not isinstance(found, Imported):
            return found
        inner = self.project.find(name, module, 1) if module.is_package else None
        if inner is not None:  # imports in a circle may not have come to that name
            return Namespace(inner, self._scope(inner))
        return Thing(self.identities.number("global", module.filename, name), text=name)

    def _absorb(self, module: Module, path: Path) -> None:
        """Execute an imported module once, on its own; what it defines is there for every path.

        Where the protocols then stand, and settings (owners below zero), go to the importing path.
        """
        if module.filename not in self.state.absorbed:
            self.state.absorbed[module.filename] = ending = _Ending()
            before = self.verdicts, self.escaped, self.budget, self.ended, self.guards
            self.verdicts, self.escaped, self.ended, self.guards = [], [], [], 0
            declaring, self.declaring = self.declaring, False
            self.budget = BUDGET
            attempt = self.attempt_within(self.floor)
            lasts, self.identities.lasts = self.identities.lasts, True
            try:
                heap = self._body(module, module.name)
            except (Exhausted, RecursionError):
                heap = Heap(())
            self.attempted(attempt)
            self.identities.lasts, self.declaring = lasts, declaring
            ending.machines = self.ended if any(m.state or m.facts for m in self.ended) else []
            self.verdicts, self.escaped, self.budget, self.ended, self.guards = before
            self.keep(module)
            for place, value in heap:
                if place[0] >= 0:
                    self.state.world.add(place, value)
                    ending.telling |= isinstance(value, Thing) and value.kind not in SILENT
                else:
                    ending.settings[place] = value
        ending = self.state.absorbed[module.filename]
        if ending.telling:
            self.touched.add(module.filename)
        if ending.machines:
            path.standing = path.standing.importing(ending.machines)
        for place, value in ending.settings.items():
            if place not in path.heap:
                path.heap[place] = value

    def keep(self, *modules: Module) -> None:
        """Have the trees of modules stay; those that were not used for long lose what was not executed."""
        state = self.state
        state.trees.update(dict.fromkeys(modules))
        state.whole.update(dict.fromkeys(modules))
        size = sum(len(each.text) for each in state.whole)
        while size > WHOLE:
            oldest = next(iter(state.whole))
            del state.whole[oldest]
            size -= len(oldest.text)
            oldest.shed(self.executed)
            Names.forget(oldest)

    def _starred(self, module: Module, name: str, path: Path, seen: frozenset[str]) -> Value | None:
        """What a star import that only declares brings in; the file behind it is executed for that."""
        for each in self.state.stars.get(module.filename, ()):
            if each.filename not in seen and each.mentions(name):
                self._absorb(each, path)
                found = path.heap.get((self._scope(each), name))
                found = found or self._starred(each, name, path, seen | {module.filename})
                if found is not None:
                    return found
        return None

    def submodule(self, base: Namespace, name: str, path: Path) -> Value | None:
        """`package.module`, or what a package only declares."""
        found = self.project.find(name, base.module, 1)
        if found is not None:
            return Namespace(found, self._scope(found))
        return self._starred(base.module, name, path, frozenset())

    def roles(self, path: Path) -> Roles:
        """The roles that the file in progress gives away."""
        module = path.frame.module
        known = self.state.roles.get(module.filename)
        if known is None:
            known = self.state.roles[module.filename] = roles(module)
        return known

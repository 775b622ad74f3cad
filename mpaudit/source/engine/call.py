"""Calls: what is called, and whether it is followed, known from a summary, or lost sight of."""

from __future__ import annotations

import ast
from abc import abstractmethod
from collections.abc import Mapping, Sequence

from mpaudit.event import Event, LostSight
from mpaudit.finding import Span
from mpaudit.source.engine import registry
from mpaudit.source.engine.binding import Binding, Enter
from mpaudit.source.engine.facts import beyond, carries, computed, parts
from mpaudit.source.engine.handover import given_back, given_to, handed
from mpaudit.source.engine.logic import Logic
from mpaudit.source.engine.path import Frame, Identities, Path, lookup, unset
from mpaudit.source.engine.relevance import Relevance
from mpaudit.source.engine.request import Call
from mpaudit.source.engine.result import finished
from mpaudit.source.engine.site import sites, unrecorded
from mpaudit.source.engine.spending import Spending
from mpaudit.source.engine.unfollowed import not_followed
from mpaudit.source.engine.values import (
    TRUE,
    UNKNOWN,
    Bound,
    Class,
    Const,
    External,
    Function,
    Imported,
    Namespace,
    Pack,
    Partial,
    Thing,
    Value,
)
from mpaudit.source.text.outline import generates, is_short, left_to_heirs
from mpaudit.source.trait.roles import Roles

MAX_DEPTH = 12
FORWARD = {
    "Module": "forward",
    "KerasModel": "call",
    "KerasLayer": "call",
    "KerasLoss": "call",
}
"""The method that is run when an object of a project class of that kind is called."""


class Calls(Spending, Binding):
    """The state of one analysis, and how calls are made in it."""

    def __init__(self, identities: Identities, budget: int) -> None:
        super().__init__(budget)
        self.identities = identities
        self.logic = Logic(identities)
        self.fruitless: dict[ast.AST, int] = {}
        self.told = 0
        self.followed: dict[ast.AST, None] = {}
        self.for_heirs: set[ast.AST] = set()
        """The methods that were followed, but for objects of classes that inherit them alone."""
        self.touched: set[str] = set()
        self.building: str | None = None  # the file of the class that an object is made of
        self.declaring = False  # in a block that is there for type checkers alone
        self.narrow: frozenset[str] | None = None  # what is followed if not everything is
        self.sites: dict[tuple[ast.expr, int], ast.expr] = {}
        self.guarding: set[ast.expr] = set()  # the tests that may keep a scaler from its update

    # To be filled in below this class: the house has one engine, cut at its joints.

    @abstractmethod
    def attribute(self, base: Value, name: str, node: ast.expr, path: Path) -> Value:
        """`base.name`."""

    @abstractmethod
    def emit(self, event: Event, path: Path) -> None:
        """Feed an event to the path's protocols."""

    @abstractmethod
    def imported(self, value: Imported, path: Path) -> Value:
        """What an import brings in, executing the module if that has not happened yet."""

    @abstractmethod
    def submodule(self, base: Namespace, name: str, path: Path) -> Value | None:
        """The project module `base.name`, if there is one."""

    @abstractmethod
    def roles(self, path: Path) -> Roles:
        """The roles of the module in progress."""

    # Calling

    def _Call(self, node: ast.Call, path: Path) -> Value:
        done = path.frame.done
        if node in done:
            return done[node]
        function = self.evaluate(node.func, path)
        arguments = self._arguments(node.args, path)
        keywords = {
            keyword.arg or "**": self.evaluate(keyword.value, path) for keyword in node.keywords
        }
        keywords = {**self._spread(keywords.get("**"), path), **keywords}
        result = self.call(node, function, arguments, keywords, path)
        done[node] = result
        return result

    def _spread(self, rest: Value | None, path: Path) -> dict[str, Value]:
        """The keywords that a function was called with and hands on as `**kwargs`."""
        if not isinstance(rest, Thing) or self.identities.description(rest.uid)[0] != "parameter":
            return {}
        held = ((name, value) for name, value in path.heap.of(rest.uid) if name.startswith("['"))
        return {name[2:-2]: value for name, value in held if not unset(value)}

    def _arguments(self, nodes: list[ast.expr], path: Path) -> tuple[Value, ...]:
        values: list[Value] = []
        for node in nodes:
            value = self.evaluate(node, path)
            items = value
            if isinstance(node, ast.Starred) and not isinstance(value, Pack):
                items = path.known(value, "@items") or value
            if isinstance(node, ast.Starred) and isinstance(items, Pack):
                values.extend(items.items)
            else:
                values.append(value)
        return tuple(values)

    def call(
        self,
        node: ast.Call,
        function: Value,
        arguments: tuple[Value, ...],
        keywords: Mapping[str, Value],
        path: Path,
    ) -> Value:
        """The result of calling `function`."""
        function = self.logic.pick(function, path)
        if isinstance(function, Partial):
            arguments = (*function.arguments, *arguments)
            keywords = {**dict(function.keywords), **keywords}
            return self.call(node, function.function, arguments, keywords, path)
        if isinstance(function, Function):
            return self.enter(node, function, arguments, keywords, path)
        if isinstance(function, Class):
            return self.instantiate(node, function, arguments, keywords, path)
        if isinstance(function, Bound) and function.function is not None:
            return self.enter(
                node, function.function, (function.receiver, *arguments), keywords, path
            )
        if isinstance(function, Thing):
            method = self._callable(function, path)
            if method is not None and not self._opaque(function, method):
                call = Call(self, path, node, method.name, function, arguments, keywords)
                registry.entering(call, function.kind)
                return self.enter(node, method, (function, *call.arguments), call.keywords, path)
        receiver = function.receiver if isinstance(function, Bound) else None
        name = function.name if isinstance(function, (Bound, External)) else ""
        if isinstance(function, Thing):
            described = self.identities.description(function.uid)
            if described[0] == "." and isinstance(described[2], Const):
                receiver, name = described[1], str(described[2].value)  # type: ignore[assignment]
        call = Call(self, path, node, name, receiver, arguments, keywords)
        result = registry.summary(call, function)
        if result is None:
            result = self.unknown_call(call, function)
        return finished(call, function, result)

    def operated(
        self, operation: str, operands: tuple[Value, ...], made: Thing, path: Path
    ) -> Thing:
        """`made`, with what the libraries know of the result of an operation."""
        return registry.operated(self, operation, operands, made, path)

    def library_attribute(self, base: Thing, name: str, path: Path) -> Value | None:
        """An attribute of a thing of a library, where a summary knows it."""
        return registry.attribute(self, base, name, path)

    def _opaque(self, model: Thing, method: Function) -> bool:
        """Whether a model's own code says no more than its call itself."""
        return model.kind == "Module" and not (
            self.narrow is None and self.relevance.following(method)
        )

    def _callable(self, thing: Thing, path: Path) -> Function | None:
        owner = path.known(thing, "@class")
        if not isinstance(owner, Class):
            return None
        found = lookup(path, owner, "__call__")
        if found is None and thing.kind in FORWARD:
            found = lookup(path, owner, FORWARD[thing.kind])
        return found if isinstance(found, Function) else None

    def enter(
        self,
        site: ast.expr,
        function: Function,
        arguments: tuple[Value, ...],
        keywords: Mapping[str, Value],
        path: Path,
        result: Value | None = None,
        *,
        short: bool = False,
    ) -> Value:
        """Follow a call into the project, by raising Enter; its result if it is not worth following.

        What is `short` always is.
        """
        inputs = (*arguments, *keywords.values())
        recursive = any(frame.function == function for frame in path.frames)
        if recursive or len(path.frames) > MAX_DEPTH or left_to_heirs(function.node):
            if isinstance(site, ast.Call):
                self.lose(inputs, path, path.frame.module.span(site))
            return result or beyond(self.made(site, path), inputs, path)
        if not short and not self._worth(function, inputs, path):
            name = given_back(function.node)
            back = given_to(function, arguments, keywords).get(name) if name else None
            not_followed(function, result or next(iter(arguments), None), path, self.identities)
            return result or back or self._computed(site, inputs, path)
        if self.narrow and isinstance(result, Thing) and result.kind == "Module":
            return result  # what a model is made of is not worth it
        if self.narrow and not short and not self.relevance.handling(function, self.narrow):
            lost = handed(function, given_to(function, arguments, keywords), path, self.identities)
            self.lose(lost, path, path.frame.module.span(site), elsewhere=True)
            not_followed(function, result or next(iter(arguments), None), path, self.identities)
            return result or self._computed(site, inputs, path)
        if generates(function.node):
            begun = Partial(function, arguments, tuple(keywords.items()))
            return path.learn(self.made(site, path, kind="generator"), generator=begun)
        if not self._inherits(function, arguments, path):
            self.for_heirs.discard(function.node)
        elif function.node not in self.followed:
            self.for_heirs.add(function.node)
        inner = self.activation(site, function, path)
        self.bind(function, inner, arguments, keywords, path)
        raise Enter(site, function, inner, result)

    def _inherits(self, function: Function, arguments: tuple[Value, ...], path: Path) -> bool:
        """Whether a method is called for an object of a class that inherits it."""
        owner = path.known(arguments[0], "@class") if function.owner and arguments else None
        return (
            isinstance(owner, Class)
            and function.owner is not None
            and owner.uid != function.owner.uid
        )

    def _worth(self, function: Function, inputs: Sequence[Value], path: Path) -> bool:
        """Whether a call can matter to a protocol."""
        if not self.relevance.following(function):
            return any(path.known(each, "@hooked") is not None for each in inputs)
        if not self.relevance.speaking(function) and not any(carries(v, path) for v in inputs):
            return False
        elsewhere = self.building is not None and function.module.filename != self.building
        return not elsewhere or self.relevance.building(function)

    def property_of(
        self, base: Thing, name: str, getter: Function, node: ast.expr, path: Path
    ) -> Value:
        """`base.name` of a property; of one that is not followed, the answer is the same each time."""
        got = self.enter(node, getter, (base,), {}, path, short=is_short(getter.node))
        if isinstance(got, Thing) and not got.kind:
            return computed(self.term(".", base, Const(name)), (base,), path)
        return got

    def _computed(self, site: ast.expr, inputs: Sequence[Value], path: Path) -> Thing:
        """What a function returns that is not worth following."""
        made = computed(self.made(site, path), inputs, path)
        return self.computed_here(made, site, path)

    def entered(self, function: Function) -> None:
        """Note that a function is followed, and that its file is more than read."""
        self.followed[function.node] = None
        self.touched.add(function.module.filename)

    def activation(self, site: ast.expr, function: Function, path: Path) -> Frame:
        """The frame of a function that is called at `site`."""
        self.entered(function)
        frame = path.frame
        context = self.identities.number("in", frame.context, site, frame.iteration)
        scope = self.identities.number("scope", function.node, context)
        scopes = (scope, *function.scopes)
        return Frame(function.module, scopes, context, function, iteration=frame.iteration)

    def instantiate(
        self,
        node: ast.Call,
        owner: Class,
        arguments: tuple[Value, ...],
        keywords: Mapping[str, Value],
        path: Path,
    ) -> Value:
        """A new instance of a project class; `__init__` is followed."""
        kind, base = registry.kind_of(owner)
        made = self.made(node, path, kind=kind or "instance")
        path.learn(made, **{"class": owner})
        self.derive(made, (), path)
        if base is not None:
            call = Call(self, path, node, base, None, arguments, keywords)
            registry.adopt(call, made, base)
        init = lookup(path, owner, "__init__")
        if isinstance(init, Function):
            path.frame.done[node] = made
            return self.enter(node, init, (made, *arguments), keywords, path, result=made)
        fields = [s for s in owner.node.body if isinstance(s, ast.AnnAssign)]
        for field, value in zip(fields, arguments, strict=False):
            if isinstance(field.target, ast.Name):
                path.heap[(made.uid, field.target.id)] = value
        for name, value in keywords.items():
            path.heap[(made.uid, name)] = value
        return path.learn(made, by_name=TRUE if "**" in keywords else None)

    def unknown_call(self, call: Call, function: Value) -> Value:
        """The result of a call that cannot be looked into."""
        path, inputs = call.path, (*call.arguments, *call.keywords.values())
        name = function.name if isinstance(function, External) else None
        if name is None or not registry.harmless(name):
            lost = inputs
            if isinstance(function, Bound) and isinstance(function.receiver, Thing):
                if function.receiver.kind in ("instance", "super"):
                    lost = (*inputs, function.receiver)
            self.lose(lost, path, call.span)
        made = call.made("library" if name and name.rpartition(".")[2][:1].isupper() else "")
        sources = inputs if call.receiver is None else (*inputs, call.receiver)
        self.derive(made, sources, path)
        if path.known(made, "@scaled") is None:
            own = (
                isinstance(function, Bound)
                and isinstance(function.receiver, Thing)
                and function.receiver.kind in ("instance", "super")
            )
            given = any(isinstance(v, Thing) and v.kind == "GradScaler" for v in inputs)
            path.learn(made, scaled=UNKNOWN if own or given else Pack(()))
        if any(isinstance(v, Thing) and v.kind == "KerasOptimizer" for v in inputs):
            path.learn(made, scaled=UNKNOWN)
        return self.computed_here(made, call.node, path)

    def computed_here(self, made: Thing, node: ast.AST, path: Path) -> Thing:
        """A value, with the region it is computed in if a backward pass comes through it."""
        region = self.region(path)
        if region is None:
            return made
        if unrecorded(sites(node, path, self.identities)):
            path.heap.forget((made.uid, "@region"))
            return made
        return path.learn(made, region=region)

    def lose(
        self, values: Sequence[Value], path: Path, at: Span, *, elsewhere: bool = False
    ) -> None:
        """Values went where they cannot be followed; `elsewhere`: not from here (see LostSight)."""
        keys = set()
        for value in values:
            for part in parts(value, path):
                if not isinstance(part, Thing):
                    continue
                keys.add(part.uid)
                keys.update(self.identities.members.get(part.uid, ()))
                if part.kind == "Module":
                    path.learn(part, device=UNKNOWN)
                if part.kind in ("instance", "super"):
                    held = (value for _, value in path.heap.of(part.uid))
                    keys.update(v.uid for v in held if isinstance(v, Thing))
        if keys:
            self.emit(LostSight(at=at, objects=frozenset(keys), elsewhere=elsewhere), path)

    relevance: Relevance
    guards: int
    """How many `try` statements are in progress."""

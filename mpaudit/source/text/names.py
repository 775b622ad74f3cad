"""What library object a name means, whatever it is called here.

`import torch as th`, `from torch.cuda import amp`, `cast = amp.autocast` inside a function:
`Names.resolve` follows all of it and answers "torch.cuda.amp.autocast", or None when it is not
sure. It looks at the text as a whole and not at the order of execution: a name that is bound twice
to different things means nothing.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from msgspec import Struct, field

from mpaudit.source.api.deprecated import STARS
from mpaudit.source.text.walk import children

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

_BUILTINS = frozenset(dir(builtins))
LENT = frozenset(["torch"])
"""Libraries that a package imports in one place, for all its files: `from .compat import torch`."""
MAX_BINDINGS = 50
"""A name that is bound more often than this means nothing for certain."""
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_SCOPED = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)
"""What has a scope of its own."""
_BINDING = (
    *(ast.Assign, ast.AnnAssign, ast.NamedExpr, ast.Import, ast.ImportFrom, ast.ExceptHandler),
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef),
    *(ast.MatchAs, ast.MatchStar, ast.MatchMapping),
)
"""What binds names, or says which of the names inside is bound to what."""


class Binding(Struct, eq=False):
    """One place where a name gets a meaning.

    `node` is the `ast.alias` of an import, the `ast.Name` that is assigned, or what else binds it.
    `origin` is the qualified name that an import gives, the expression that is assigned, or None
    where nothing is known (a parameter, a loop variable, a class of this file).
    """

    name: str
    node: ast.AST
    scope: Scope
    origin: str | ast.expr | None = None
    empty: bool = False  # `x = None` or a bare `x: T`: says nothing of what x is when it is used


class Scope(Struct, eq=False):
    """A module, class, function or comprehension, with the names that it binds."""

    node: ast.AST
    parent: Scope | None = None
    names: dict[str, list[Binding]] = field(default_factory=dict)
    outside: dict[str, str] = field(default_factory=dict)  # name -> "global" or "nonlocal"

    @property
    def is_class(self) -> bool:
        """Whether functions inside do not see its names."""
        return isinstance(self.node, ast.ClassDef)

    @property
    def is_module(self) -> bool:
        """Whether other files can import its names."""
        return self.parent is None


class Names:
    """Every binding of a module and what it means."""

    def __init__(self, module: Module) -> None:
        self.package = module.package
        self.scope = Scope(module.tree)
        self._scopes: dict[ast.Name, Scope] = {}
        self._meanings: dict[Binding, str | None] = {}
        self._followed: set[Binding] = set()  # `x = x` is a circle: the other bindings decide
        self._readers: dict[Binding, list[ast.Name]] | None = None
        self._all: list[Binding] = []
        self._dotted: list[ast.Attribute] = []
        self._collect(module.tree)

    def __del__(self) -> None:
        """Let go of the bindings: they and their scopes hold each other, and no garbage is collected."""
        for binding in self._all:
            binding.scope.names.clear()
        self.scope.names.clear()

    @classmethod
    def of(cls, module: Module) -> Names:
        """The names of `module`, worked out once."""
        found = _KNOWN.get(module)
        if found is None:
            found = _KNOWN[module] = cls(module)
        return found

    @staticmethod
    def forget(module: Module) -> None:
        """Drop the names of `module`; they are worked out again where somebody asks."""
        _KNOWN.pop(module, None)

    def resolve(self, node: ast.AST) -> str | None:
        """The qualified name of what a Name or a dotted Attribute means; None when unsure."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        found = self.bindings(node)
        root = self._agreed(found) if found else self._builtin(node.id)
        return ".".join([root, *reversed(parts)]) if root else None

    def bindings(self, node: ast.Name) -> list[Binding]:
        """All that may give this name its meaning."""
        scope = self._scopes.get(node)
        return self._lookup(node.id, scope) if scope else []

    def trail(self, node: ast.AST) -> Iterator[Binding]:
        """The bindings that `resolve` goes through, the nearest first."""
        seen: set[Binding] = set()
        waiting: list[ast.AST] = [node]
        while waiting:
            expression = waiting.pop()
            while isinstance(expression, ast.Attribute):
                expression = expression.value
            if not isinstance(expression, ast.Name):
                continue
            for binding in self.bindings(expression):
                if binding not in seen:
                    seen.add(binding)
                    yield binding
                    if isinstance(binding.origin, ast.AST):
                        waiting.append(binding.origin)

    def meaning(self, binding: Binding) -> str | None:
        """What this one binding gives its name."""
        if binding not in self._meanings:
            origin = binding.origin
            self._followed.add(binding)
            self._meanings[binding] = (
                self.resolve(origin) if isinstance(origin, ast.AST) else origin
            )
            self._followed.discard(binding)
        return self._meanings[binding]

    def bind(self, name: str, origin: str, node: ast.AST) -> None:
        """Give a name of the module a meaning that the text itself does not tell, before any reads."""
        binding = Binding(name, node, self.scope, origin)
        self._all.append(binding)
        self.scope.names.setdefault(name, []).append(binding)

    @property
    def spelled(self) -> set[str]:
        """Every name that is bound anywhere in the module."""
        return {binding.name for binding in self._all}

    def all(self) -> list[Binding]:
        """Every binding of the module, in no order."""
        return self._all

    def reads(self) -> Iterator[ast.Name | ast.Attribute]:
        """Every place that reads a name or an attribute, in no order."""
        found: list[ast.Name | ast.Attribute] = [*self._scopes, *self._dotted]
        return (node for node in found if isinstance(node.ctx, ast.Load))

    def readers(self, binding: Binding) -> list[ast.Name]:
        """The places that read the name of `binding`, in no order."""
        if self._readers is None:
            self._readers = {}
            for node in self._scopes:
                if isinstance(node.ctx, ast.Load):
                    for each in self.bindings(node):
                        self._readers.setdefault(each, []).append(node)
        return self._readers.get(binding, [])

    def spelling(self, meaning: str, at: ast.Name) -> str | None:
        """A plain name of the module that means `meaning` where the name `at` stands."""
        scope = self._scopes[at]
        for name, bindings in self.scope.names.items():
            if self._lookup(name, scope) is bindings and self._agreed(bindings) == meaning:
                return name
        return None

    def sees(self, name: str, at: ast.Name) -> bool:
        """Whether a plain name may mean something where the name `at` stands."""
        return bool(self._lookup(name, self._scopes[at])) or "*" in self.scope.names

    def binds(self, name: str) -> bool:
        """Whether some scope of the module binds a name, wherever it is."""
        return any(name in scope.names for scope in {*self._scopes.values(), self.scope})

    def _agreed(self, bindings: list[Binding]) -> str | None:
        if len(bindings) > MAX_BINDINGS:
            return None
        certain = [each for each in bindings if not each.empty and each not in self._followed]
        found = {self.meaning(each) for each in certain}
        return found.pop() if len(found) == 1 else None

    def _builtin(self, name: str) -> str | None:
        return f"builtins.{name}" if name in _BUILTINS and "*" not in self.scope.names else None

    def _lookup(self, name: str, start: Scope) -> list[Binding]:
        scope: Scope | None = start
        while scope is not None:
            if scope.outside.get(name) == "global":
                return self.scope.names.get(name, [])
            visible = scope is start or not scope.is_class
            if visible and name in scope.names and name not in scope.outside:
                return scope.names[name]
            scope = scope.parent
        return []

    def _collect(self, tree: ast.Module) -> None:
        """Visit every node once, without recursion, and file the bindings."""
        found: list[Binding] = []
        values: dict[ast.AST, ast.expr | None] = {}
        waiting: list[tuple[ast.AST, Scope]] = [(tree, self.scope)]
        while waiting:
            node, scope = waiting.pop()
            if isinstance(node, ast.Name):
                self._scopes[node] = scope
                if isinstance(node.ctx, ast.Store):
                    found.append(_assigned(node, _function_of(node, scope, values), values))
                continue
            if isinstance(node, ast.Attribute):
                self._dotted.append(node)
            elif isinstance(node, _BINDING):
                for name, origin, where in _bound_by(node, self.package):
                    found.append(Binding(name, where, scope, origin))
                values.update(_values(node))
            elif isinstance(node, (ast.Global, ast.Nonlocal)):
                kind = "global" if isinstance(node, ast.Global) else "nonlocal"
                scope.outside.update(dict.fromkeys(node.names, kind))
            if isinstance(node, _SCOPED):
                waiting += _children(node, scope, found)
            else:
                waiting += [(each, scope) for each in children(node)]
        self._all = found
        for binding in found:
            home = _home(binding, self.scope)
            home.names.setdefault(binding.name, []).append(binding)


_KNOWN: WeakKeyDictionary[Module, Names] = WeakKeyDictionary()


def _home(binding: Binding, module: Scope) -> Scope:
    """The scope that a binding belongs to, after `global` and `nonlocal`."""
    kind = binding.scope.outside.get(binding.name)
    if kind == "global":
        return module
    scope = binding.scope
    while kind and scope.parent and (binding.name in scope.outside or scope.is_class):
        scope = scope.parent
    return scope


def _function_of(node: ast.Name, scope: Scope, values: dict[ast.AST, ast.expr | None]) -> Scope:
    """Where a stored name is bound: `:=` in a comprehension binds in the function around it."""
    while node in values and isinstance(scope.node, _Comprehension) and scope.parent:
        scope = scope.parent
    return scope


def _assigned(node: ast.Name, scope: Scope, values: dict[ast.AST, ast.expr | None]) -> Binding:
    if node not in values:
        return Binding(node.id, node, scope)
    value = values[node]
    empty = value is None or (isinstance(value, ast.Constant) and value.value is None)
    return Binding(node.id, node, scope, value, empty)


def _values(node: ast.AST) -> Iterator[tuple[ast.AST, ast.expr | None]]:
    """Which name of an assignment gets which expression."""
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                yield from _pairs(target, value)
        case ast.AnnAssign(target=ast.Name() as target, value=annotated):
            yield target, annotated
        case ast.NamedExpr(target=target, value=value):
            yield target, value


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.AST, ast.expr | None]]:
    if isinstance(target, ast.Name):
        yield target, value
    elif (
        isinstance(target, (ast.Tuple, ast.List))
        and isinstance(value, (ast.Tuple, ast.List))
        and len(target.elts) == len(value.elts)
        and not any(isinstance(each, ast.Starred) for each in [*target.elts, *value.elts])
    ):
        for one, other in zip(target.elts, value.elts, strict=True):
            yield from _pairs(one, other)


def _bound_by(node: ast.AST, package: str) -> Iterator[tuple[str, str | None, ast.AST]]:
    """The names that a node binds otherwise than by assignment, and what imports say they are."""
    match node:
        case ast.Import(names=aliases):
            for alias in aliases:
                root = alias.name.partition(".")[0]
                yield (alias.asname, alias.name, alias) if alias.asname else (root, root, alias)
        case ast.ImportFrom(names=aliases):
            source = _imported_from(node, package)
            for alias in aliases:
                lent = node.level and alias.name in LENT
                origin = alias.name if lent else f"{source}{alias.name}"
                yield alias.asname or alias.name, origin, alias
                for name in STARS.get(source[:-1], ()) if alias.name == "*" else ():
                    yield name, f"{source}{name}", alias
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name, None, node
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
            yield name, None, node
        case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
            yield name, None, node


def _imported_from(node: ast.ImportFrom, package: str) -> str:
    """What stands before an imported name; a relative import keeps its dots where it must."""
    parts = package.split(".") if package else []
    if not node.level:
        return f"{node.module}."
    base = parts[: len(parts) - node.level + 1]
    prefix = ".".join(base) + "." if base else "." * node.level
    return f"{prefix}{node.module}." if node.module else prefix


def _children(node: ast.AST, scope: Scope, found: list[Binding]) -> Iterator[tuple[ast.AST, Scope]]:
    """The parts of a node, each with the scope it is evaluated in."""
    if isinstance(node, _Function):
        inner = Scope(node, scope)
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [each for each in (arguments.vararg, arguments.kwarg) if each]
        found.extend(Binding(each.arg, each, inner) for each in every)
        outer: list[ast.expr | None] = [*arguments.defaults, *arguments.kw_defaults]
        outer += [each.annotation for each in every]
        body: list[ast.AST]
        if isinstance(node, ast.Lambda):
            body = [node.body]
        else:
            outer += [*node.decorator_list, node.returns]
            body = [*node.body]
        yield from ((each, scope) for each in outer if each)
        yield from ((each, inner) for each in body)
    elif isinstance(node, ast.ClassDef):
        inner = Scope(node, scope)
        yield from ((each, scope) for each in (*node.decorator_list, *node.bases, *node.keywords))
        yield from ((each, inner) for each in node.body)
    elif isinstance(node, _Comprehension):
        inner = Scope(node, scope)
        first = node.generators[0].iter
        yield first, scope
        yield from ((each, inner) for each in _inside(node) if each is not first)


def _inside(node: _Comprehension) -> Iterator[ast.AST]:
    if isinstance(node, ast.DictComp):
        yield from (node.key, node.value)
    else:
        yield node.elt
    for generator in node.generators:
        yield from (generator.target, generator.iter, *generator.ifs)

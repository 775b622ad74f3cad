"""What a function that is not followed hands on to code that nobody can see.

Where the budget is short, only what handles scalers, regions and gradients is followed. Any other function
leaves alone what it only reads; of what it hands to code out of sight, nothing is known any more.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from mpaudit.source.engine.path import Frame, Identities, Path, lookup
from mpaudit.source.engine.values import (
    UNKNOWN,
    Bound,
    Class,
    Const,
    External,
    Function,
    Pack,
    Thing,
    Value,
)
from mpaudit.source.text.memo import for_a_while
from mpaudit.source.text.module import Module
from mpaudit.source.text.outline import generates
from mpaudit.source.text.walk import walk

HARMLESS = frozenset(
    ["isinstance", "len", "print", "super", "str", "repr", "id", "type", "float", "int", "range"]
)
"""Builtins that do nothing to what they are given."""
THROUGH = (ast.Tuple, ast.List, ast.Set, ast.Dict, ast.Starred, ast.IfExp, ast.BoolOp, ast.keyword)
"""What only passes a value on to what stands around it."""
KEEPS = (ast.Assign, ast.AnnAssign, ast.NamedExpr, ast.Yield)
OUTSIDE = ("instance", "super")
"""The kinds of objects of which a method that is not in view may do anything to them."""


class Use(Struct, frozen=True):
    """What a function does with `parameter.attributes`: it calls it, hands it to `callee`, or reads it.

    `callee` is None where it is handed to who knows whom; `position` counts the callee's arguments,
    and is a word for a keyword.
    """

    parameter: str
    attributes: tuple[str, ...]
    how: str
    callee: ast.expr | None = None
    position: int | str | None = None


def handed(
    function: Function, given: Mapping[str, Value], path: Path, identities: Identities
) -> list[Value]:
    """Which of the values `given` to a function, by parameter, go where nobody can see them.

    It may have moved a model, too.
    """
    for value in given.values():
        if isinstance(value, Thing) and value.kind == "Module":
            path.learn(value, device=UNKNOWN)
    return list(_Tracer(path, identities).handed(function, given))


def handed_by(
    node: ast.stmt, frame: Frame, held: Mapping[str, Value], path: Path, identities: Identities
) -> list[Value]:
    """Which of the values that variables hold a statement hands to where nobody can see them."""
    tracer = _Tracer(path, identities)
    uses = _uses(node, frame.module, tuple(held))
    return [value for use in uses for value in tracer.used(use, frame.scopes, held)]


def given_to(
    function: Function, arguments: Sequence[Value], keywords: Mapping[str, Value]
) -> dict[str, Value]:
    """The values that a call gives to a function, by the name of the parameter that takes them."""
    spec = function.node.args
    names = [a.arg for a in (*spec.posonlyargs, *spec.args)]
    given = dict(zip(names, arguments, strict=False))
    if spec.vararg is not None and len(arguments) > len(names):
        given[spec.vararg.arg] = Pack(tuple(arguments[len(names) :]))
    known = {*names, *(a.arg for a in spec.kwonlyargs)}
    given |= {name: value for name, value in keywords.items() if name in known}
    rest = tuple(value for name, value in keywords.items() if name not in known)
    if spec.kwarg is not None and rest:
        given[spec.kwarg.arg] = Pack(rest)
    return given


@for_a_while(4096)
def given_back(node: ast.AST) -> str | None:
    """The parameter that a function returns wherever it returns, itself: `return model`."""
    if not isinstance(node, ast.FunctionDef) or node.decorator_list or generates(node):
        return None
    last = node.body[-1]
    if not isinstance(last, ast.Return) or not isinstance(last.value, ast.Name):
        return None
    name, spec = last.value.id, node.args
    if name not in {each.arg for each in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)}:
        return None
    for part in walk(node):
        if isinstance(part, ast.Name) and part.id == name and not isinstance(part.ctx, ast.Load):
            return None
        if isinstance(part, ast.Return) and ast.dump(part) != ast.dump(last):
            return None
    return name


class _Tracer:
    """Goes through a function and the functions of the project that it calls, each once."""

    def __init__(self, path: Path, identities: Identities) -> None:
        self.path = path
        self.identities = identities
        self.seen: set[tuple[ast.AST, str]] = set()

    def handed(self, function: Function, given: Mapping[str, Value]) -> Iterator[Value]:
        given = {p: v for p, v in given.items() if (function.node, p) not in self.seen}
        self.seen |= {(function.node, parameter) for parameter in given}
        for use in _uses(function.node, function.module, _parameters(function.node)):
            if use.parameter in given:
                yield from self.used(use, function.scopes, given)

    def used(
        self, use: Use, scopes: tuple[int, ...], given: Mapping[str, Value]
    ) -> Iterator[Value]:
        """What one use hands over."""
        owner, value = None, given[use.parameter]
        for name in use.attributes:
            owner = value
            method = self._method(owner, name)
            if method is not None:
                if use.how == "call" or method.decorators:
                    yield from self._entered(method, 0, owner)
                return
            value = self._attribute(owner, name)
        if use.how == "hand":
            callee = self._callee(use.callee, scopes, given)
            if callee is None or use.position is None:
                yield value
            else:
                yield from self._entered(callee, use.position, value)
        elif use.how == "call" and isinstance(owner, Thing) and owner.kind in OUTSIDE:
            called = self.path.heap.get((owner.uid, use.attributes[-1]))
            if isinstance(called, (Function, Bound)) or (called is None and self._foreign(owner)):
                yield owner

    def _entered(self, function: Function, position: int | str, value: Value) -> Iterator[Value]:
        """Go on in a function that is given `value`; a method's own object has position 0."""
        spec = function.node.args
        names = [a.arg for a in (*spec.posonlyargs, *spec.args)]
        if isinstance(position, int):
            name = names[position] if position < len(names) else None
        else:
            name = position if position in (*names, *(a.arg for a in spec.kwonlyargs)) else None
        if name is None:
            yield value
        else:
            yield from self.handed(function, {name: value})

    def _callee(
        self, node: ast.expr | None, scopes: tuple[int, ...], given: Mapping[str, Value]
    ) -> Function | None:
        """The function of the project that is called, where the place of its arguments is sure."""
        if isinstance(node, ast.Name):
            for scope in scopes:
                found = self.path.heap.get((scope, node.id))
                if found is not None:
                    return found if isinstance(found, Function) else None
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = given.get(node.value.id)
            return None if owner is None else self._method(owner, node.attr)
        return None

    def _method(self, owner: Value, name: str) -> Function | None:
        cls = self.path.known(owner, "@class")
        if not isinstance(owner, Thing) or not isinstance(cls, Class):
            return None
        if (owner.uid, name) in self.path.heap:
            return None
        found = lookup(self.path, cls, name)
        return found if isinstance(found, Function) else None

    def _attribute(self, owner: Value, name: str) -> Value:
        if not isinstance(owner, Thing):
            return owner
        found = self.path.heap.get((owner.uid, name))
        if found is not None:
            return found
        return Thing(self.identities.number(".", owner, Const(name)))

    def _foreign(self, owner: Thing) -> bool:
        """Whether a method that is not in view may come from a class of a library."""
        cls = self.path.known(owner, "@class")
        return not isinstance(cls, Class) or _derived(cls)


def _derived(cls: Class, depth: int = 0) -> bool:
    return any(
        (isinstance(base, Class) and (depth > 8 or _derived(base, depth + 1)))
        or not (isinstance(base, Class) or base == External("builtins.object"))
        for base in cls.bases
    )


@for_a_while(4096)
def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> tuple[str, ...]:
    spec = function.args
    names = [a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
    return (*names, *(a.arg for a in (spec.vararg, spec.kwarg) if a is not None))


@for_a_while(8192)
def _uses(within: ast.AST, module: Module, names: tuple[str, ...]) -> list[Use]:
    found = []
    for node in walk(within):
        if isinstance(node, ast.Name) and node.id in names and isinstance(node.ctx, ast.Load):
            found.append(_use(node, module.parents))
        elif isinstance(node, ast.Attribute) and names and _is_super(node.value):
            found.append(Use(names[0], (), "hand"))
    return found


def _use(node: ast.Name, parents: Mapping[ast.AST, ast.AST]) -> Use:
    attributes: list[str] = []
    top: ast.AST = node
    while isinstance(parent := parents[top], ast.Attribute):
        attributes.append(parent.attr)
        top = parent
    if isinstance(parent, ast.Call) and parent.func is top:
        return Use(node.id, tuple(attributes), "call")
    direct: ast.AST | None = top
    while isinstance(parent, THROUGH):
        direct = parent if direct is top and isinstance(parent, ast.keyword) else None
        top, parent = parent, parents[parent]
    if isinstance(parent, ast.Call):
        if isinstance(parent.func, ast.Name) and parent.func.id in HARMLESS:
            return Use(node.id, tuple(attributes), "read")
        return Use(node.id, tuple(attributes), "hand", parent.func, _position(direct, parent))
    return Use(node.id, tuple(attributes), "hand" if isinstance(parent, KEEPS) else "read")


def _position(given: ast.AST | None, call: ast.Call) -> int | str | None:
    if isinstance(given, ast.keyword):
        return given.arg
    if given not in call.args or any(isinstance(a, ast.Starred) for a in call.args):
        return None
    return call.args.index(given) + isinstance(call.func, ast.Attribute)


def _is_super(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
    )

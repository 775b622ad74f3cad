"""The own `torch.autograd.Function`s of a project: their guards, and what of them autocast breaks."""

from __future__ import annotations

import ast
from collections.abc import Container, Iterator
from typing import TYPE_CHECKING

from msgspec import Struct

from mpaudit.protocols.autograd_function import problem
from mpaudit.source.text.names import Names
from mpaudit.source.text.walk import walk

if TYPE_CHECKING:
    from mpaudit.finding import Problem
    from mpaudit.source.text.module import Module

FUNCTION = frozenset(["torch.autograd.Function", "torch.autograd.function.Function"])
FWD = frozenset(
    f"torch.{place}.custom_fwd"
    for place in ("amp", "amp.autocast_mode", "cuda.amp", "cuda.amp.autocast_mode")
)
BWD = frozenset(name.replace("_fwd", "_bwd") for name in FWD)
_PLAIN = frozenset(["builtins.staticmethod"])
_PRODUCTS = frozenset(
    ["mm", "bmm", "matmul", "addmm", "addbmm", "baddbmm", "einsum", "chain_matmul"]
    + ["linear", "bilinear"]
    + [f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)]
)
_SHAPES = frozenset(["view", "reshape", "transpose", "permute", "contiguous", "t", "relu", "clone"])
MAX_STEPS = 8
_PRODUCT_METHODS = frozenset(["mm", "bmm", "matmul", "addmm", "addmm_", "baddbmm", "baddbmm_"])


class Guard(Struct, frozen=True):
    """A `custom_fwd` or `custom_bwd` on a method: the decorator, its call if it is one, its name."""

    node: ast.expr
    call: ast.Call | None
    name: str

    @property
    def legacy(self) -> bool:
        """Whether it is the one of torch.cuda.amp, which knows its device."""
        return ".cuda." in self.name

    @property
    def open(self) -> bool:
        """Whether arguments come from a dict."""
        return self.call is not None and any(k.arg is None for k in self.call.keywords)

    def argument(self, name: str) -> ast.expr | None:
        """A keyword argument."""
        keywords = self.call.keywords if self.call is not None else []
        return next((k.value for k in keywords if k.arg == name), None)

    @property
    def device(self) -> str | None:
        """The device it is for, as far as it is written down."""
        given = self.argument("device_type")
        if isinstance(given, ast.Constant) and isinstance(given.value, str):
            return given.value
        return "cuda" if self.legacy else None


class Method(Struct, frozen=True):
    """A method, the guard on it, and whether decorators stand on it that nobody knows."""

    node: ast.FunctionDef
    guard: Guard | None
    unknown: bool


class AutogradFunction(Struct, frozen=True):
    """A class derived from `torch.autograd.Function`."""

    node: ast.ClassDef
    methods: dict[str, Method]


def functions(module: Module) -> Iterator[AutogradFunction]:
    """Every `torch.autograd.Function` that the file defines."""
    if "Function" not in module.text:
        return
    names = Names.of(module)
    for node in module.every(ast.ClassDef):
        if any(names.resolve(b) in FUNCTION for b in node.bases):
            defined = [s for s in node.body if isinstance(s, ast.FunctionDef)]
            yield AutogradFunction(node, {s.name: _method(s, names) for s in defined})


def _method(node: ast.FunctionDef, names: Names) -> Method:
    guard: Guard | None = None
    unknown = False
    for decorator in node.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        name = names.resolve(call.func if call is not None else decorator)
        if name in FWD or name in BWD:
            guard = Guard(decorator, call, str(name))
        elif name not in _PLAIN:
            unknown = True
    return Method(node, guard, unknown)


def multiplies(function: ast.AST, names: Names) -> ast.expr | None:
    """The first operation of a function that autocast runs in half: a product of matrices."""
    found = (n for n in walk(function) if isinstance(n, ast.expr) and _is_product(n, names))
    return next(found, None)


def _is_product(node: ast.expr, names: Names) -> bool:
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.MatMult)
    if not isinstance(node, ast.Call):
        return False
    library, _, last = (names.resolve(node.func) or "").rpartition(".")
    if library:
        return library in ("torch", "torch.nn.functional") and last in _PRODUCTS
    return isinstance(node.func, ast.Attribute) and node.func.attr in _PRODUCT_METHODS


def _returns_product(forward: ast.FunctionDef, names: Names) -> bool:
    """Whether every result is a product as it came out: what was added to it may be in float32."""
    assigned: dict[str, list[ast.expr]] = {}
    for node in walk(forward):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    assigned.setdefault(target.id, []).append(node.value)
    results = [n.value for n in walk(forward) if isinstance(n, ast.Return)]
    return bool(results) and all(_half(each, assigned, names, MAX_STEPS) for each in results)


def _half(
    node: ast.expr | None, assigned: dict[str, list[ast.expr]], names: Names, steps: int
) -> bool:
    """Whether an expression is a product, possibly reshaped or multiplied by a number."""
    if node is None or steps == 0:
        return False
    if _is_product(node, names):
        return True
    match node:
        case ast.Name(id=name):
            values = assigned.get(name, [])
            return bool(values) and all(_half(v, assigned, names, steps - 1) for v in values)
        case ast.Call(func=ast.Attribute(attr=method, value=inner)) if method in _SHAPES:
            return _half(inner, assigned, names, steps - 1)
        case ast.BinOp(left=left, right=ast.Constant()):
            return _half(left, assigned, names, steps - 1)
    return False


_CASTS = frozenset(
    ["to", "type", "type_as", "float", "half", "bfloat16", "autocast", "is_autocast_enabled"]
)


def flaw(function: AutogradFunction, module: Module) -> tuple[str, ast.expr] | None:
    """What goes wrong with a function under autocast ("products", "recomputes"), and where.

    Nothing where one of its methods casts, asks for autocast, or is decorated by what is not known.
    """
    forward, backward = function.methods.get("forward"), function.methods.get("backward")
    if forward is None or backward is None:
        return None
    if any(m.guard is not None or m.unknown for m in (forward, backward)):
        return None
    if _casts(forward.node) or _casts(backward.node):
        return None
    again = _recomputed(forward.node, backward.node, Names.of(module))
    if again is not None:
        return "recomputes", again
    product = multiplies(backward.node, Names.of(module))
    if product is None or not _returns_product(forward.node, Names.of(module)):
        return None
    return ("products", product) if _saves(forward.node) else None


def problem_of(function: AutogradFunction, module: Module) -> tuple[str, Problem] | None:
    """The flaw of a function and the problem that it is, wherever the function is applied."""
    found = flaw(function, module)
    if found is None:
        return None
    return found[0], problem(found[0], function.node.name, module.span(found[1]))


def _casts(function: ast.AST) -> bool:
    return any(
        (isinstance(node, ast.Attribute) and (node.attr in _CASTS or "autocast" in node.attr))
        or (isinstance(node, ast.Name) and "autocast" in node.id)
        or (isinstance(node, ast.keyword) and node.arg == "dtype")
        for node in walk(function)
    )


def _saves(forward: ast.FunctionDef) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr == "save_for_backward"
        for node in walk(forward)
    )


def _recomputed(
    forward: ast.FunctionDef, backward: ast.FunctionDef, names: Names
) -> ast.Call | None:
    """Where `backward` runs again, with gradients, the function that `forward` was handed and called."""
    parameters = {each.arg for each in (*forward.args.posonlyargs, *forward.args.args)}
    called = {n.func.id for n in walk(forward) if _calls_name(n)}  # type: ignore[attr-defined]
    kept = {
        target.attr
        for node in walk(forward)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name)
        for target in node.targets
        if isinstance(target, ast.Attribute) and node.value.id in parameters
    }
    called_kept = {
        n.func.attr
        for n in walk(forward)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
    }
    if not (called & parameters or called_kept & kept):
        return None
    again = {
        target.id
        for target, value in _assigned(backward)
        if isinstance(target, ast.Name) and _is_kept(value, kept)
    }
    for node in walk(backward):
        if isinstance(node, ast.With) and any(
            isinstance(item.context_expr, ast.Call)
            and names.resolve(item.context_expr.func) == "torch.enable_grad"
            for item in node.items
        ):
            for call in walk(node):
                if isinstance(call, ast.Call) and _is_kept(call.func, kept, again):
                    return call
    return None


def _assigned(function: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What a function assigns to what, those of `a, b = x, y` one by one."""
    for node in walk(function):
        for target in node.targets if isinstance(node, ast.Assign) else ():
            assert isinstance(node, ast.Assign)
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                yield from zip(target.elts, node.value.elts, strict=False)
            else:
                yield target, node.value


def _is_kept(node: ast.expr, kept: set[str], names: Container[str] = ()) -> bool:
    """Whether an expression is what `ctx` keeps, or one of the names that it was given."""
    if isinstance(node, ast.Name):
        return node.id in names
    return (
        isinstance(node, ast.Attribute) and node.attr in kept and isinstance(node.value, ast.Name)
    )


def _calls_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def beside_amp(function: AutogradFunction, module: Module) -> bool:
    """Whether the file that defines a function uses autocast, a scaler or a guard, where it may meet it.

    It does not where plain functions alone come to it, as those of a metric do, and none of what uses
    them is a class or speaks of mixed precision itself: then a region has to be seen around it.
    """
    if not speaks_of_amp(module):
        return False
    known, used = {function.node.name}, False
    waiting: list[ast.stmt] = [each for each in module.tree.body if each is not function.node]
    while users := [each for each in waiting if _mentions(each, known)]:
        used = True
        names = Names.of(module)
        if any(isinstance(each, ast.ClassDef) or _uses_amp(each, names) for each in users):
            return True
        known.update(*(_bound(each) for each in users))
        waiting = [each for each in waiting if each not in users]
    return not used


def _mentions(node: ast.AST, known: set[str]) -> bool:
    return any(isinstance(each, ast.Name) and each.id in known for each in walk(node))


def _bound(node: ast.AST) -> Iterator[str]:
    """The names that a statement gives to something."""
    for each in (node, *walk(node)):
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield each.name
        elif isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            yield each.id


def _uses_amp(node: ast.AST, names: Names) -> bool:
    read = (each for each in walk(node) if isinstance(each, (ast.Name, ast.Attribute)))
    return any(_about_amp(names.resolve(each) or "") for each in read)


def speaks_of_amp(module: Module) -> bool:
    """Whether a file itself uses autocast, a scaler, or a guard of autograd functions."""
    if not any(word in module.text for word in ("autocast", "GradScaler", "custom_fwd")):
        return False
    names = Names.of(module)
    return any(_about_amp(names.resolve(node) or "") for node in names.reads())


def _about_amp(name: str) -> bool:
    last = name.rpartition(".")[2]
    return name.startswith("torch.") and (
        last in ("autocast", "GradScaler") or name in FWD or name in BWD
    )

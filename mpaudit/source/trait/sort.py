"""What sort of thing an expression is, as far as the text says: a device object, a truth value, a dtype.

A name is of a sort if everything that is assigned to it in its scope is; an attribute of `self` if
everything is that its class assigns to it; a parameter if all calls in the file hand over such a thing, or,
where there are none, if its default is a truth value. What is not certain has no sort.
"""

from __future__ import annotations

import ast
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING

from mpaudit.source.text.names import Names
from mpaudit.source.text.walk import walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpaudit.source.text.module import Module

MAX_STEPS = 8
"""Assignments that are followed one after another."""


class Sort(Enum):
    """What an expression evaluates to."""

    DEVICE = auto()  # a torch.device object
    BOOL = auto()
    DTYPE = auto()  # torch.float16 and its kin
    TEXT = auto()
    NONE = auto()


DTYPES = frozenset(
    f"torch.{name}"
    for name in ("float16", "half", "bfloat16", "float32", "float", "float64", "double")
)
_CALLS = {
    "torch.device": Sort.DEVICE,
    "builtins.bool": Sort.BOOL,
    "builtins.isinstance": Sort.BOOL,
    "builtins.hasattr": Sort.BOOL,
    "builtins.str": Sort.TEXT,
    "torch.cuda.is_available": Sort.BOOL,
    "torch.cuda.is_bf16_supported": Sort.BOOL,
}
_DEVICE_TYPES = frozenset(["cpu", "cuda", "mps", "xpu", "npu", "hpu"])
_FLUENT = frozenset(["to", "cuda", "cpu", "eval", "train", "half", "float", "bfloat16"])
"""Methods of models and tensors that return one."""
_PRETRAINED = ("from_pretrained", "from_config", "pipeline")
_TENSORS = frozenset(
    f"torch.{name}" for name in ("tensor", "zeros", "ones", "empty", "full", "randn", "rand")
)
_ASKING = frozenset(f"builtins.{name}" for name in ("isinstance", "hasattr", "type"))
_FLAGS = frozenset(["store_true", "store_false"])


def sort_of(node: ast.expr, module: Module, steps: int = MAX_STEPS) -> Sort | None:
    """The sort of an expression, None where it is not certain."""
    if steps == 0:
        return None
    match node:
        case ast.Constant(value=bool()):
            return Sort.BOOL
        case ast.Constant(value=str()) | ast.JoinedStr():
            return Sort.TEXT
        case ast.Constant(value=None):
            return Sort.NONE
        case ast.Compare() | ast.UnaryOp(op=ast.Not()):
            return Sort.BOOL
        case ast.BoolOp(values=values):
            return _agreed(sort_of(each, module, steps - 1) for each in values)
        case ast.IfExp(body=yes, orelse=no):
            return _agreed(sort_of(each, module, steps - 1) for each in (yes, no))
        case ast.Call(func=function):
            return _CALLS.get(Names.of(module).resolve(function) or "")
        case ast.Name():
            return _name(node, module, steps) or _by_its_type(node, module)
        case ast.Attribute():
            return _attribute(node, module, steps) or _by_its_type(node, module)
    return None


def _by_its_type(node: ast.Name | ast.Attribute, module: Module) -> Sort | None:
    """A device object is what has a `type` that is compared with the type of a device.

    That holds for a name that is bound once, and an attribute of `self` to which its class assigns nothing
    but such objects and names, where nobody asks what it is.
    """
    text = ast.unparse(node)
    alike = [each for each in _with_device_types(module) if ast.unparse(each) == text]
    if not alike or any(
        Names.of(module).resolve(call.func) in _ASKING and ast.unparse(call.args[0]) == text
        for call in module.every(ast.Call)
        if call.args
    ):
        return None
    if isinstance(node, ast.Name):
        bound = Names.of(module).bindings(node)
        same = any(
            Names.of(module).bindings(each) == bound for each in alike if isinstance(each, ast.Name)
        )
        return Sort.DEVICE if len(bound) == 1 and same else None
    owner = _class_around(node, module)
    if (
        owner is None
        or not isinstance(node.value, ast.Name)
        or node.value.id != _receiver(node, module)
    ):
        return None
    same = any(_class_around(each, module) is owner for each in alike)
    given = _assigned(owner, node.attr, module)
    fitting = all(
        isinstance(g, ast.Name) or (g and sort_of(g, module) is Sort.DEVICE) for g in given
    )
    return Sort.DEVICE if same and fitting else None


def _with_device_types(module: Module) -> list[ast.expr]:
    """What is written before `.type == "cuda"` in a file."""
    return module.recall(("device types",), lambda: list(_compared_types(module)))


def _compared_types(module: Module) -> Iterator[ast.expr]:
    for node in module.every(ast.Compare):
        match node:
            case ast.Compare(
                left=ast.Attribute(attr="type", value=ast.Name() | ast.Attribute() as owner),
                ops=[ast.Eq() | ast.NotEq() | ast.In() | ast.NotIn()],
                comparators=[
                    ast.Constant()
                    | ast.Tuple(elts=[ast.Constant(), *_])
                    | ast.List(elts=[ast.Constant(), *_])
                    | ast.Set(elts=[ast.Constant(), *_]) as found
                ],
            ):
                each = found if isinstance(found, ast.Constant) else found.elts[0]
                if isinstance(each, ast.Constant) and each.value in _DEVICE_TYPES:
                    yield owner


def stands_for(node: ast.expr, module: Module, steps: int = MAX_STEPS) -> ast.expr:
    """The expression that a name or an attribute of `self` holds, if it is the only one assigned to it."""
    found: list[ast.expr | None] = []
    if isinstance(node, ast.Name):
        origins = [each.origin for each in Names.of(module).bindings(node)]
        found = [each if isinstance(each, ast.expr) else None for each in origins]
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        owner = _class_around(node, module)
        if owner is not None and node.value.id == _receiver(node, module):
            found = list(_assigned(owner, node.attr, module))
    if steps == 0 or len(found) != 1 or found[0] is None:
        return node
    return stands_for(found[0], module, steps - 1)


def _agreed(sorts: Iterator[Sort | None]) -> Sort | None:
    found = set(sorts)
    return found.pop() if len(found) == 1 else None


def _name(node: ast.Name, module: Module, steps: int) -> Sort | None:
    names = Names.of(module)
    if names.resolve(node) in DTYPES:
        return Sort.DTYPE
    found: set[Sort | None] = set()
    for binding in names.bindings(node):
        if isinstance(binding.origin, ast.expr):
            found.add(sort_of(binding.origin, module, steps - 1))
        elif isinstance(binding.node, ast.arg):
            found.add(_handed(binding.node, module, steps) or _parameter(binding.node, module))
        else:
            return None
    return found.pop() if len(found) == 1 else None


def _handed(node: ast.arg, module: Module, steps: int) -> Sort | None:
    """What all calls in the file hand over for a parameter, unless the function asks what it is."""
    spec = module.parents[node]
    function = module.parents[spec]
    if not isinstance(function, ast.FunctionDef) or not isinstance(spec, ast.arguments):
        return None
    positional = [*spec.posonlyargs, *spec.args]
    if function.decorator_list or node not in (*positional, *spec.kwonlyargs):
        return None
    calls = _calls(function, module)
    if not calls or any(_asks(call, node.arg, module) for call in module.every(ast.Call)):
        return None
    at = positional.index(node) if node in positional else None
    given = [_argument(call, at, node.arg) for call in calls]
    return _agreed(None if g is None else sort_of(g, module, steps - 1) for g in given)


def _calls(function: ast.FunctionDef, module: Module) -> list[ast.Call]:
    """The calls of a function of the file; none if something else may be done with it."""
    names = Names.of(module)
    bindings = names.scope.names.get(function.name, [])
    if [each.node for each in bindings] != [function]:
        return []
    around = [(module.parents[node], node) for node in names.readers(bindings[0])]
    calls = [call for call, node in around if isinstance(call, ast.Call) and call.func is node]
    return calls if len(calls) == len(around) else []


def _argument(call: ast.Call, at: int | None, name: str) -> ast.expr | None:
    """What a call hands over at a position or by a name, None if that is not certain."""
    if any(isinstance(each, ast.Starred) for each in call.args):
        return None
    if at is not None and at < len(call.args):
        return call.args[at]
    return next((each.value for each in call.keywords if each.arg == name), None)


def _asks(call: ast.Call, name: str, module: Module) -> bool:
    """Whether a call asks what a variable is, such that what follows may rest on the answer."""
    first = call.args[0] if call.args else None
    asked = isinstance(first, ast.Name) and first.id == name
    return asked and Names.of(module).resolve(call.func) in _ASKING


def _parameter(node: ast.arg, module: Module) -> Sort | None:
    """A parameter is a truth value if its default is one, and its annotation says no other thing."""
    if isinstance(node.annotation, ast.Name) and node.annotation.id == "bool":
        return Sort.BOOL
    spec = module.parents[node]
    if node.annotation is not None or not isinstance(spec, ast.arguments):
        return None
    positional = [*spec.posonlyargs, *spec.args]
    defaults = dict(zip(reversed(positional), reversed(spec.defaults), strict=False))
    defaults |= {a: d for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if d}
    default = defaults.get(node)
    is_flag = isinstance(default, ast.Constant) and isinstance(default.value, bool)
    return Sort.BOOL if is_flag else None


def _attribute(node: ast.Attribute, module: Module, steps: int) -> Sort | None:
    if Names.of(module).resolve(node) in DTYPES:
        return Sort.DTYPE
    if node.attr == "device" and _has_device(node.value, module, steps):
        return Sort.DEVICE
    if not isinstance(node.value, ast.Name):
        return None
    owner = _class_around(node, module)
    if owner is not None and node.value.id == _receiver(node, module):
        values = list(_assigned(owner, node.attr, module))
        if values:
            return _agreed(
                None if each is None else sort_of(each, module, steps - 1) for each in values
            )
        return None
    return Sort.BOOL if _is_flag(node.attr, module) else None


def _has_device(
    node: ast.expr, module: Module, steps: int, seen: frozenset[ast.AST] = frozenset()
) -> bool:
    """Whether `device` of an expression is a device object: of tensors, and of models of libraries.

    A plain `nn.Module` has none, and what a project's own class calls so is its own affair.
    """
    if steps == 0:
        return False
    match node:
        case ast.Call(func=ast.Attribute(attr=method, value=inner)) if method in _FLUENT:
            return _has_device(inner, module, steps - 1, seen)
        case ast.Call(func=function, args=arguments):
            name = Names.of(module).resolve(function) or ""
            if name.startswith(("transformers.", "diffusers.")):
                return name.rpartition(".")[2] in _PRETRAINED
            return name in _TENSORS or (name == "builtins.next" and _parameters(arguments))
        case ast.Name():
            bindings = Names.of(module).bindings(node)
            origins = [each.origin for each in bindings if each.node not in seen]
            seen |= {each.node for each in bindings}  # `model = model.to(device)`
            return bool(bindings) and all(
                isinstance(each, ast.expr) and _has_device(each, module, steps - 1, seen)
                for each in origins
            )
        case ast.Attribute(value=ast.Name(id=receiver)) if receiver == _receiver(node, module):
            owner = _class_around(node, module)
            values = list(_assigned(owner, node.attr, module)) if owner is not None else []
            return bool(values) and all(
                each is not None and _has_device(each, module, steps - 1) for each in values
            )
    return False


def _parameters(arguments: list[ast.expr]) -> bool:
    """`model.parameters()`."""
    match arguments:
        case [ast.Call(func=ast.Attribute(attr="parameters"))]:
            return True
    return False


def _class_around(node: ast.AST, module: Module) -> ast.ClassDef | None:
    while node in module.parents:
        node = module.parents[node]
        if isinstance(node, ast.ClassDef):
            return node
    return None


def _receiver(node: ast.AST, module: Module) -> str | None:
    """What the method around a place calls its instance."""
    found: str | None = None
    while node in module.parents and not isinstance(node, ast.ClassDef):
        node = module.parents[node]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = [*node.args.posonlyargs, *node.args.args][:1]
            found = first[0].arg if first else None
    return found


def _assigned(owner: ast.ClassDef, name: str, module: Module) -> Iterator[ast.expr | None]:
    """What a class assigns to an attribute of its instances; None for what is no plain assignment."""
    members = module.recall(("members", owner), partial(_members, owner))
    for node in members.get(name, ()):
        if isinstance(node, ast.FunctionDef):
            yield None  # a property
        elif isinstance(node.value, ast.Name) and node.value.id == _receiver(node, module):
            parent = module.parents[node]
            plain = isinstance(parent, ast.Assign) and node in parent.targets
            annotated = isinstance(parent, ast.AnnAssign)
            yield parent.value if plain or annotated else None  # type: ignore[attr-defined]


def _members(owner: ast.ClassDef) -> dict[str, list[ast.FunctionDef | ast.Attribute]]:
    """The functions in a class, and the attributes that are assigned in it, by name."""
    found: dict[str, list[ast.FunctionDef | ast.Attribute]] = {}
    for node in walk(owner):
        if isinstance(node, ast.FunctionDef):
            found.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.setdefault(node.attr, []).append(node)
    return found


def _is_flag(name: str, module: Module) -> bool:
    """Whether the file's command line has a switch of that name."""
    for node in module.every(ast.Call):
        if isinstance(node.func, ast.Attribute):
            if node.func.attr == "add_argument" and _option(node) == name:
                given = {k.arg: k.value for k in node.keywords}
                action = given.get("action")
                return isinstance(action, ast.Constant) and action.value in _FLAGS
    return False


def _option(call: ast.Call) -> str | None:
    """The attribute that an option of argparse ends up in."""
    for keyword in call.keywords:
        if keyword.arg == "dest" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    texts = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    long = [text for text in texts if text.startswith("--")] or texts
    return long[0].lstrip("-").replace("-", "_") if long else None

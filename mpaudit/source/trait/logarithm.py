"""Logarithms of softmaxes and sigmoids, as far as one function's text shows them.

A logarithm counts that takes nothing but the activation: directly, through indexing or a change of
shape, or through a variable that nothing else reads. Where the probabilities are needed for something
else as well, an epsilon or a clamp stands between, or the activation is asked for in float32 by hand,
the author has thought about it.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from msgspec import Struct

from mpaudit.event.logarithm import CONSEQUENCES, said
from mpaudit.source.api.keras_names import everywhere
from mpaudit.source.text.names import Names
from mpaudit.source.text.walk import walk

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

__all__ = [
    "CONSEQUENCES",
    "Activation",
    "activation_in",
    "logarithm_of",
    "only_greatest",
    "read_otherwise",
    "said",
]

LOGARITHMS = frozenset(
    [
        "torch.log",
        "tensorflow.log",
        "tensorflow.math.log",
        "tensorflow.compat.v1.log",
        "tensorflow.compat.v1.math.log",
        *everywhere("ops.log", "ops.numpy.log", "backend.log"),
    ]
)
_PLACES = (
    *("torch", "torch.special", "torch.nn.functional"),
    *("tensorflow", "tensorflow.nn", "tensorflow.math"),
    *everywhere("ops", "ops.nn", "activations", "backend"),
)
FUNCTIONS = {f"{where}.{name}": name for where in _PLACES for name in ("softmax", "sigmoid")} | {
    "torch.special.expit": "sigmoid"
}
LAYERS = {"torch.nn.Softmax": "softmax", "torch.nn.Sigmoid": "sigmoid"}
PASSING = frozenset(
    ["gather", "squeeze", "unsqueeze", "view", "reshape", "flatten", "transpose", "permute"]
)
"""Methods between an activation and its logarithm that change no number."""
FLOAT32 = frozenset(["float", "double"])
WRITTEN = frozenset(["torch.tensor", "torch.Tensor", "torch.FloatTensor", "tensorflow.constant"])
"""What makes a tensor of numbers: of those that stand there, anyone can see how large they are."""
GREATEST = frozenset(["argmax", "topk", "shape", "size", "dim", "ndim", "device", "dtype"])
MAX_STEPS = 4


class Activation(Struct, frozen=True, dict=True):
    """A softmax or sigmoid in the source; `complement` if it is taken from 1."""

    node: ast.Call
    nature: str
    complement: bool = False

    @property
    def text(self) -> str:
        """What the logarithm is taken of."""
        return f"{'1 - ' if self.complement else ''}{self.nature}(x)"


def logarithm_of(node: ast.Call, module: Module) -> ast.expr | None:
    """What a logarithm is taken of, None if the call is none."""
    function = node.func
    if isinstance(function, ast.Attribute):
        if function.attr != "log":
            return None
        if not node.args and not node.keywords:
            return function.value
    elif not isinstance(function, ast.Name):
        return None
    if len(node.args) == 1 and not node.keywords:
        return node.args[0] if Names.of(module).resolve(function) in LOGARITHMS else None
    return None


def only_greatest(node: ast.AST, module: Module) -> bool:
    """Whether of a logarithm nothing but the place of the greatest is asked: no rounding moves it."""
    parent = module.parents[node]
    if isinstance(parent, ast.Attribute):
        return parent.attr == "argmax"
    if not isinstance(parent, ast.Call) or parent.args[:1] != [node]:
        return False
    name = parent.func.attr if isinstance(parent.func, ast.Attribute) else ""
    return name == "argmax"


def activation_in(node: ast.expr, module: Module, steps: int = MAX_STEPS) -> Activation | None:
    """The activation that an expression is, through what changes no number of it."""
    if steps == 0:
        return None
    match node:
        case ast.Subscript(value=inner):
            return activation_in(inner, module, steps - 1)
        case ast.BinOp(left=ast.Constant(value=1), op=ast.Sub(), right=inner):
            found = activation_in(inner, module, steps - 1)
            plain = found is not None and found.nature == "sigmoid" and not found.complement
            return Activation(found.node, "sigmoid", True) if found and plain else None
        case ast.Name():
            value = _only_value(node, module)
            return activation_in(value, module, steps - 1) if value is not None else None
        case ast.Call():
            nature = _nature(node, module)
            if nature is not None:
                return None if _in_float32(node, module) else Activation(node, nature)
            if isinstance(node.func, ast.Attribute) and node.func.attr in PASSING:
                return activation_in(node.func.value, module, steps - 1)
    return None


def _only_value(node: ast.Name, module: Module) -> ast.expr | None:
    """What a variable of a function holds, if it is bound only once and read only here."""
    names = Names.of(module)
    bindings = names.bindings(node)
    if len(bindings) != 1 or not isinstance(bindings[0].origin, ast.expr):
        return None
    return bindings[0].origin if names.readers(bindings[0]) == [node] else None


def _nature(node: ast.Call, module: Module) -> str | None:
    """Whether a call applies a softmax or a sigmoid: "softmax", "sigmoid" or None."""
    names, function = Names.of(module), node.func
    meaning = names.resolve(function)
    if meaning is not None:
        return FUNCTIONS.get(meaning)
    if isinstance(function, ast.Call):
        return LAYERS.get(names.resolve(function.func) or "")
    if not isinstance(function, ast.Attribute):
        return None
    if isinstance(function.value, ast.Name) and function.value.id == "self":
        return _held(function, module)
    if function.attr == "sigmoid" and not node.args and not node.keywords:
        return "sigmoid"
    along = [*node.args, *(k.value for k in node.keywords if k.arg == "dim")]
    if function.attr == "softmax" and len(along) == 1:
        return "softmax" if isinstance(along[0], (ast.Constant, ast.UnaryOp)) else None
    return None


def _held(attribute: ast.Attribute, module: Module) -> str | None:
    """What a module in an attribute of `self` applies, where its class makes it only once."""
    owner: ast.AST = attribute
    while not isinstance(owner, ast.ClassDef):
        if owner not in module.parents:
            return None
        owner = module.parents[owner]
    made = [
        each.value
        for each in walk(owner)
        if isinstance(each, ast.Assign)
        for target in each.targets
        if isinstance(target, ast.Attribute) and target.attr == attribute.attr
    ]
    if len(made) != 1 or not isinstance(made[0], ast.Call):
        return None
    return LAYERS.get(Names.of(module).resolve(made[0].func) or "")


def _in_float32(node: ast.Call, module: Module) -> bool:
    """Whether an activation is computed in float32 or float64 because the author says so."""
    if any(keyword.arg == "dtype" for keyword in node.keywords):
        return True
    given = node.args[0] if node.args else None
    if isinstance(node.func, ast.Attribute) and Names.of(module).resolve(node.func) is None:
        given = node.func.value if given is None or node.func.attr == "softmax" else given
    return given is not None and _cast(given, module)


def _cast(node: ast.expr, module: Module, steps: int = 2 * MAX_STEPS) -> bool:
    """Whether a tensor was cast to float32 or float64 by hand, or holds the numbers of a list."""
    match node:
        case _ if steps == 0:
            return False
        case ast.Call(args=[numbers, *_]) if Names.of(module).resolve(node.func) in WRITTEN:
            return _literal(numbers)
        case ast.Call(func=ast.Attribute(value=inner, attr=method)):
            if method in FLOAT32 or (
                method in ("to", "type")
                and any(
                    isinstance(part, ast.Attribute) and part.attr in ("float32", "float64")
                    for each in node.args
                    for part in walk(each)
                )
            ):
                return True
            return _cast(inner, module, steps - 1)
        case ast.Subscript(value=inner) | ast.UnaryOp(operand=inner):
            return _cast(inner, module, steps - 1)
        case ast.BinOp(left=left, right=right):
            return _cast(left, module, steps - 1) or _cast(right, module, steps - 1)
        case ast.Name():
            bound = [each.origin for each in Names.of(module).bindings(node)]
            return any(isinstance(b, ast.expr) and _cast(b, module, steps - 1) for b in bound)
    return False


def _literal(node: ast.expr) -> bool:
    """Whether an expression is a number, or a list of such."""
    if isinstance(node, (ast.List, ast.Tuple)):
        return all(_literal(each) for each in node.elts)
    if isinstance(node, ast.UnaryOp):
        return _literal(node.operand)
    return isinstance(node, ast.Constant) and isinstance(node.value, (int, float))


def read_otherwise(node: ast.expr, module: Module) -> bool:
    """Whether what a logarithm is taken of is needed for more than that, as probabilities.

    The place of the greatest, or what is printed of it, is the same for their logarithms.
    """
    while isinstance(node, ast.Subscript) or (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in PASSING
    ):
        node = node.value if isinstance(node, ast.Subscript) else node.func.value  # type: ignore[attr-defined]
    if isinstance(node, ast.Call):
        return False
    if not isinstance(node, ast.Name):
        return True
    names = Names.of(module)
    bindings = names.bindings(node)
    if len(bindings) != 1:
        return True
    return any(
        reader is not node and not _takes_the_greatest(reader, module)
        for reader in names.readers(bindings[0])
    )


def _takes_the_greatest(reader: ast.Name, module: Module) -> bool:
    parent = module.parents[reader]
    while isinstance(parent, ast.Attribute) and parent.attr in ("data", "detach", "cpu"):
        parent = module.parents[parent]
        if isinstance(parent, ast.Call):
            parent = module.parents[parent]
    if isinstance(parent, ast.Attribute):
        return parent.attr in GREATEST
    return (
        isinstance(parent, ast.Call)
        and isinstance(parent.func, ast.Attribute)
        and parent.func.attr in GREATEST
        and reader in parent.args
    )

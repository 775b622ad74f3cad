"""Repairs of logarithms of activations that stand in one expression."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.text.names import Names
from mpaudit.source.trait.logarithm import Activation

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

SAFE_FORMS = {
    "torch.softmax": "log_softmax",
    "torch.special.softmax": "log_softmax",
    "torch.nn.functional.softmax": "log_softmax",
    "torch.nn.functional.sigmoid": "logsigmoid",
    "torch.nn.Softmax": "LogSoftmax",
    "torch.nn.Sigmoid": "LogSigmoid",
    "tensorflow.nn.softmax": "log_softmax",
    "tensorflow.math.sigmoid": "log_sigmoid",
    "keras.ops.softmax": "log_softmax",
    "keras.ops.sigmoid": "log_sigmoid",
}
"""What stands in the same place of its library, under this name, and computes the logarithm."""
ELSEWHERE = {
    "torch.sigmoid": ("torch.nn.functional", "logsigmoid"),
    "torch.special.expit": ("torch.nn.functional", "logsigmoid"),
    "tensorflow.sigmoid": ("tensorflow.math", "log_sigmoid"),
    "tensorflow.nn.sigmoid": ("tensorflow.math", "log_sigmoid"),
}
_ATOMS = ast.Name | ast.Attribute | ast.Subscript | ast.Call | ast.Constant


def repair(module: Module, log: ast.Call, given: ast.expr, found: Activation) -> Fix | None:
    """Take the logarithm and the activation in one; None where other things stand between them."""
    direct = isinstance(given, ast.BinOp) and found.complement and given.right is found.node
    if given is not found.node and not direct:
        return None
    start, end = module.range(log)
    text = _spelled(module, found)
    if text is None or "#" in module.text[start:end]:
        return None
    edit = Edit(start, end, text)
    return Fix("Let one function take both", (edit,), Safety.SAFE)


def _spelled(module: Module, found: Activation) -> str | None:
    """The safe form, spelled as the file spells the activation."""
    names, call = Names.of(module), found.node
    function = call.func
    made = function if isinstance(function, ast.Call) else None
    meaning = names.resolve(made.func if made else function)
    named = made.func if made else function
    if meaning is None and isinstance(function, ast.Attribute):
        return _method(module, found, function)
    if not isinstance(named, ast.Attribute) or meaning is None:
        return None
    arguments = _arguments(module, found)
    if arguments is None:
        return None
    safe = SAFE_FORMS.get(meaning)
    if safe is not None:
        made_with = module.text[module.range(named)[1] : module.range(made)[1]] if made else ""
        return f"{module.source(named.value)}.{safe}{made_with}({arguments})"
    below, name = ELSEWHERE.get(meaning, ("", ""))
    around = _place(module, below, function)
    return f"{around}.{name}({arguments})" if around else None


def _arguments(module: Module, found: Activation) -> str | None:
    """What the activation is given, negated where it is taken from 1."""
    call = found.node
    if not found.complement:
        first, last = module.range(call.func)[1], module.range(call)[1]
        return module.text[first:last].strip()[1:-1]
    if len(call.args) != 1 or call.keywords:
        return None
    return _negated(module, call.args[0])


def _negated(module: Module, node: ast.expr) -> str:
    text = module.source(node)
    return f"-{text}" if isinstance(node, _ATOMS) else f"-({text})"


def _method(module: Module, found: Activation, function: ast.Attribute) -> str | None:
    """`x.softmax(-1)` -> `x.log_softmax(-1)`, `x.sigmoid()` -> `F.logsigmoid(x)`."""
    receiver = module.source(function.value)
    if isinstance(function.value, ast.Name) and function.value.id == "self":
        return None
    if found.nature == "softmax":
        rest = module.text[module.range(function)[1] : module.range(found.node)[1]]
        before = module.text[module.range(found.node)[0] : module.range(function)[1]]
        return f"{before.removesuffix('softmax')}log_softmax{rest}"
    around = _place(module, "torch.nn.functional", function)
    if around is None:
        return None
    return (
        f"{around}.logsigmoid({_negated(module, function.value) if found.complement else receiver})"
    )


def _place(module: Module, meaning: str, near: ast.expr) -> str | None:
    """How the file spells a module of a library: by a name of its own, or below the library's."""
    root, _, rest = meaning.partition(".")
    at = next((each for each in ast.walk(near) if isinstance(each, ast.Name)), None)
    if at is None or not meaning:
        return None
    names = Names.of(module)
    own, library = names.spelling(meaning, at), names.spelling(root, at)
    return own or (f"{library}.{rest}" if library else None)

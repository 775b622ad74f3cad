"""MP801: widths of one's own choice that are no multiple of 8, in a model for mixed precision.

Only what was chosen freely: a width that one layer puts out and another takes in, a hidden layer of
Keras, and the product with a vocabulary. Inputs, classes and small layers are as the task wants them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.finding import Problem, Related
from mpaudit.source.api.keras_names import everywhere
from mpaudit.source.text.names import Names

if TYPE_CHECKING:
    from mpaudit.fix import Fix
    from mpaudit.source.text.module import Module

_STEP = 8
_SMALL, _VOCABULARY = 64, 1024
"""Widths below which nothing is gained, and from which an embedding's rows are a vocabulary."""
_LAYERS = {
    "torch.nn.Linear": ("in_features", "out_features"),
    "torch.nn.Conv1d": ("in_channels", "out_channels"),
    "torch.nn.Conv2d": ("in_channels", "out_channels"),
    "torch.nn.Conv3d": ("in_channels", "out_channels"),
}
_EMBEDDING = "torch.nn.Embedding"
_DENSE = frozenset(everywhere("layers.Dense"))
_HIDDEN = frozenset({"relu", "gelu", "elu", "selu", "swish", "silu", "tanh", "leaky_relu"})
_MIXED = ("autocast", "mixed_float16", "mixed_bfloat16", "GradScaler")
_MOST_RELATED = 6


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield each misaligned width of a file once, where it is first put out."""
    if not any(word in module.text for word in _MIXED):
        return
    names = Names.of(module)
    made: dict[int, list[ast.Call]] = {}
    taken: dict[int, list[ast.Call]] = {}
    rows: set[int] = set()
    for call in sorted(module.every(ast.Call), key=lambda each: (each.lineno, each.col_offset)):
        name = names.resolve(call.func) or ""
        if name == _EMBEDDING:
            rows.add(_number(call, 0, "num_embeddings", names))
        elif name in _LAYERS:
            before, after = _LAYERS[name]
            taken.setdefault(_number(call, 0, before, names), []).append(call)
            made.setdefault(_number(call, 1, after, names), []).append(call)
        elif name in _DENSE and _is_hidden(call):
            width = _number(call, 0, "units", names)
            made.setdefault(width, []).append(call)
            taken.setdefault(width, []).append(call)
    for width, calls in made.items():
        if width < _SMALL or width % _STEP == 0:
            continue
        if width in taken or (width in rows and width >= _VOCABULARY):
            yield _problem(module, width, calls[0], [*calls[1:], *taken.get(width, [])]), None


def _problem(module: Module, width: int, at: ast.Call, others: list[ast.Call]) -> Problem:
    rest = [each for each in dict.fromkeys(others) if each is not at][:_MOST_RELATED]
    above = width + _STEP - width % _STEP
    return Problem(
        "tensor-core-misaligned",
        module.span(at),
        f"the width {width} is no multiple of {_STEP}; {above} would fit the tensor cores",
        "products of odd widths are padded or run on other, slower kernels",
        tuple(Related(module.span(each), f"{width} here too") for each in rest),
    )


def _number(call: ast.Call, position: int, keyword: str, names: Names) -> int:
    """A whole number that is given as a literal or by a name with one such meaning; 0 if unknown."""
    node = call.args[position] if position < len(call.args) else None
    node = node or next((each.value for each in call.keywords if each.arg == keyword), None)
    if isinstance(node, ast.Name):
        bindings = names.bindings(node)
        origin = bindings[0].origin if len(bindings) == 1 else None
        node = origin if isinstance(origin, ast.expr) else None
    value = node.value if isinstance(node, ast.Constant) else 0
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _is_hidden(call: ast.Call) -> bool:
    return any(
        each.arg == "activation"
        and isinstance(each.value, ast.Constant)
        and each.value.value in _HIDDEN
        for each in call.keywords
    )

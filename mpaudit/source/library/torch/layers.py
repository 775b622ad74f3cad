"""What a layer or a model of the user holds: products that autocast would compute in 16 bits, or none."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.source.engine.path import lookup
from mpaudit.source.engine.values import Class, Const, Function, Pack, Thing, Value
from mpaudit.source.library.torch.dtypes import LOWER_METHODS, Kind, kind_of_layer
from mpaudit.source.text.memo import for_a_while
from mpaudit.source.text.walk import walk

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path

PRODUCTS = LOWER_METHODS | {"linear", "conv1d", "conv2d", "conv3d", "einsum", "cdist", "tensordot"}
_RECURRENT = ("LSTM", "GRU", "RNN", "MultiheadAttention")
MAX_NESTING = 6


def multiplies(layer: Value, engine: Calls, path: Path, nesting: int = 0) -> bool | None:
    """Whether a layer multiplies by weights, None where that is not known."""
    if not isinstance(layer, Thing) or nesting > MAX_NESTING:
        return None
    if layer.kind == "Loss":
        return False
    if layer.kind != "Module":
        return None
    owner = path.known(layer, "@class")
    if isinstance(owner, Class):
        return _own(layer, owner, engine, path, nesting)
    name = path.known(layer, "@layer")
    if not isinstance(name, Const):
        return None
    if name.value == "Sequential":
        items = path.known(layer, "@items")
        return _any(items.items, engine, path, nesting) if isinstance(items, Pack) else None
    kind = kind_of_layer(str(name.value))
    if kind is None:
        return True if str(name.value).startswith((*_RECURRENT, "Transformer")) else None
    return kind is Kind.LOWER


def _any(layers: tuple[Value, ...], engine: Calls, path: Path, nesting: int) -> bool | None:
    answers = [multiplies(each, engine, path, nesting + 1) for each in layers]
    if True in answers:
        return True
    return None if None in answers else False


def _own(layer: Thing, owner: Class, engine: Calls, path: Path, nesting: int) -> bool | None:
    """An instance of a class of the project: by what it holds, and by what its text says."""
    held = [value for name, value in path.heap.of(layer.uid) if name[0] not in "@_"]
    answer = _any(
        tuple(value for value in held if not isinstance(value, (Const, Function))),
        engine,
        path,
        nesting,
    )
    init = lookup(path, owner, "__init__")
    unseen = not isinstance(init, Function) or init.node not in engine.followed
    if answer is False and (unseen or _mentions_products(owner.node)):
        return None
    return answer


@for_a_while(256)
def _mentions_products(node: ast.AST) -> bool:
    return any(
        isinstance(part, ast.MatMult)
        or (isinstance(part, ast.Attribute) and part.attr in PRODUCTS)
        or (isinstance(part, ast.Name) and part.id in PRODUCTS)
        for part in walk(node)
    )

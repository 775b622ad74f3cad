"""Constants that meet tensors of 16 bits: fill values, masks, epsilons."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import ConstantMet, Ref
from mpaudit.source.engine.dtypes import HALF, possible, reasons_of
from mpaudit.source.engine.registry import on_binary
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import Const, External, Thing, Value
from mpaudit.source.library.python.number import number
from mpaudit.source.library.torch.tensor import certain

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

_METHODS = {
    "masked_fill": (1, "value"),
    "masked_fill_": (1, "value"),
    "fill_": (0, "value"),
    "index_fill": (2, "value"),
    "index_fill_": (2, "value"),
    "new_full": (1, "fill_value"),
    "clamp": (0, "min"),
    "clip": (0, "min"),
    "clamp_": (0, "min"),
    "clamp_min": (0, "min"),
    "clamp_min_": (0, "min"),
}
"""Where methods of a tensor take a constant: position and keyword."""
_FUNCTIONS = {
    "torch.masked_fill": (2, "value"),
    "torch.index_fill": (3, "value"),
    "torch.full_like": (1, "fill_value"),
    "torch.clamp": (1, "min"),
    "torch.clip": (1, "min"),
    "torch.clamp_min": (1, "min"),
    "torch.nn.functional.pad": (3, "value"),
    "torch.nn.functional.normalize": (3, "eps"),
    "torch.nn.functional.cosine_similarity": (3, "eps"),
    "torch.nn.init.constant_": (1, "val"),
}
"""Where functions of a tensor, their first argument, take one."""
_NORMS = {
    "torch.nn.functional.normalize": (3, "eps"),
    "torch.nn.functional.cosine_similarity": (3, "eps"),
}


@on_result(functions=("torch.full", "torch.where", *_NORMS, *_FUNCTIONS), methods=_METHODS)
def filled(call: Call, callee: Value, made: Value) -> None:
    """`scores.masked_fill(mask, -1e9)`, `torch.where(mask, scores, -1e9)`, `torch.full(...)`."""
    if isinstance(callee, External):
        if callee.name == "torch.full":
            _met(call, made, None, 1, "fill_value")
        elif callee.name == "torch.where":
            for place, other in ((1, 2), (2, 1)):
                _met(call, call.argument(other), call.argument_node(other), place, None)
        elif callee.name in _NORMS:  # the norm is what is computed in the dtype of the result
            _met(call, made, call.argument_node(0), *_NORMS[callee.name])
        else:
            _met(call, call.argument(0, "input"), call.argument_node(0), *_FUNCTIONS[callee.name])
    elif isinstance(call.receiver, Thing) and not call.receiver.kind:
        node = call.node.func.value if isinstance(call.node.func, ast.Attribute) else None
        _met(call, call.receiver, node, *_METHODS[call.name])


def _met(
    call: Call, tensor: Value | None, node: ast.expr | None, place: int, keyword: str | None
) -> None:
    engine, path = call.engine, call.path
    given = call.argument_node(place, keyword)
    constant = number(call.argument(place, keyword), engine.identities)
    if constant is None or given is None:
        return
    name = call.name.rpartition(".")[2]
    _emit(engine, path, call.node, name, tensor, node, constant, given)


@on_binary
def met(
    engine: Calls, node: ast.BinOp | ast.AugAssign, left: Value, right: Value, path: Path
) -> None:
    """`x / (norm + 1e-8)`, `(1.0 - mask) * -1e9`."""
    if not isinstance(node.op, (ast.Add, ast.Sub, ast.Mult)):
        return
    one, two = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.target, node.value)
    for tensor, spelt, other, given in ((left, one, right, two), (right, two, left, one)):
        constant = number(other, engine.identities)
        if constant is None or not isinstance(tensor, Thing):
            continue
        if isinstance(node.op, ast.Mult) and not (constant < 0 and _is_mask(tensor, engine)):
            continue
        _emit(engine, path, node, type(node.op).__name__, tensor, spelt, constant, given)


def _is_mask(tensor: Thing, engine: Calls) -> bool:
    """Whether a tensor is `1 - mask`."""
    operation, *operands = engine.identities.description(tensor.uid) or ("",)
    return operation == "Sub" and operands[0] in (Const(1), Const(1.0))


def _emit(
    engine: Calls,
    path: Path,
    at: ast.AST,
    operation: str,
    tensor: Value | None,
    node: ast.expr | None,
    constant: float,
    given: ast.expr,
) -> None:
    if constant == 0 or 1e-7 < abs(constant) <= 65504 or not possible(tensor, path) & set(HALF):
        return
    known = certain(engine, tensor, path)
    if known is None or known.name not in HALF:
        return
    module = path.frame.module
    text = " ".join(module.source(node).split()) if node is not None else ""
    engine.emit(
        ConstantMet(
            at=module.span(at),
            occasional=any(frame.occasional for frame in path.frames),
            tensor=Ref(tensor.uid if isinstance(tensor, Thing) else 0, text),
            dtype=known.name,
            value=constant,
            text=" ".join(module.source(given).split()),
            operation=operation,
            because=reasons_of(known),
        ),
        path,
    )

"""Squares of float16 tensors, and what sums them up in float16.

Reported are squares of what nothing bounds: the output of a linear layer or a convolution, a cast of
the script's own data. What went through a softmax, a sigmoid, a normalisation or a division is left
alone, and so is all that runs in float32, as `sum` and `pow` do in a region for CUDA.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import Ref, SquaresReduced
from mpaudit.finding import Span
from mpaudit.source.engine.dtypes import dtype, possible, reasons_of
from mpaudit.source.engine.registry import on_binary, on_operation
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import Const, External, Pack, Thing, Value
from mpaudit.source.library.torch.dtypes import Kind, kind_of_layer
from mpaudit.source.library.torch.tensor import certain

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

_HALF = "float16"
_OPEN = frozenset(
    """relu relu_ gelu silu leaky_relu dropout view reshape flatten transpose permute squeeze
    unsqueeze contiguous clone detach cuda cpu to half abs neg""".split()  # noqa: SIM905
)
"""What leaves large values large."""
_OPEN_LAYERS = frozenset(
    ["ReLU", "GELU", "SiLU", "LeakyReLU", "Dropout", "Identity", "Flatten", "Sequential"]
)
_LINEAR = frozenset(["linear", "conv1d", "conv2d", "conv3d"])
_ANY, _DIFFERENCE, _DATA = Const("any"), Const("difference"), Const("data")
"""Why nothing bounds a tensor. Only sums are told of differences, only sums of all elements of data."""
_REDUCING = ("sum", "mean")


@on_result(
    functions=lambda name: name.rpartition(".")[0] in ("torch", "torch.nn.functional"),
    methods={"square", "pow", *_OPEN, *_REDUCING},
    kinds=("Module",),
)
def called(call: Call, callee: Value, made: Value) -> None:
    """A call of a library is over: a layer, a cast, a square or a sum."""
    if not isinstance(made, Thing) or made.kind:
        return
    path, engine = call.path, call.engine
    if isinstance(callee, Thing) and callee.kind:
        if callee.kind == "Module" and _HALF in possible(made, path) and call.arguments:
            _of_layer(call, callee, made)
        return
    if isinstance(callee, External):
        name = callee.name.rpartition(".")[2]
        tensor = call.argument(0, "input")
        node, rest = call.argument_node(0, "input"), call.arguments[1:]
    else:
        name, tensor, rest = call.name, call.receiver, call.arguments
        node = call.node.func.value if isinstance(call.node.func, ast.Attribute) else None
    if not isinstance(tensor, Thing) or node is None:
        return
    if name in _REDUCING:
        _reduced(call, name, tensor, made)
    elif _HALF not in possible(made, path):
        return
    elif name in _LINEAR and isinstance(callee, External):
        path.learn(made, wide=_ANY)
    elif name == "square" or (name == "pow" and rest[:1] in ((Const(2),), (Const(2.0),))):
        _squared(engine, tensor, node, made, call.span, path)
    elif name in _OPEN:
        known = path.known(tensor, "@wide")
        if known is None and name in ("half", "to") and _is_data(call, tensor):
            known = _DATA
        path.learn(made, wide=known)


@on_operation
def operated(
    _: Calls, operation: str, operands: tuple[Value, ...], made: Thing, path: Path
) -> None:
    """Sums of such tensors, their differences, parts of them."""
    if operation not in ("Add", "Sub", "[]", "USub"):
        return
    known = [path.known(operand, "@wide") for operand in operands]
    if operation in ("[]", "USub"):
        path.learn(made, wide=known[0])
    elif any(known) and _HALF in possible(made, path):
        path.learn(made, wide=_DIFFERENCE if operation == "Sub" else next(filter(None, known)))


@on_binary
def multiplied(
    engine: Calls, node: ast.BinOp | ast.AugAssign, left: Value, right: Value, path: Path
) -> None:
    """`h * h`, `h ** 2`."""
    if not isinstance(node, ast.BinOp) or not isinstance(left, Thing):
        return
    operation = type(node.op).__name__
    if (operation == "Mult" and left == right) or (
        operation == "Pow" and right in (Const(2), Const(2.0))
    ):
        made = engine.term(operation, left, right)
        if isinstance(made, Thing):
            _squared(engine, left, node.left, made, path.frame.module.span(node), path)


def _squared(
    engine: Calls, tensor: Thing, node: ast.expr, made: Thing, at: Span, path: Path
) -> None:
    known = path.known(tensor, "@wide")
    if known is None or dtype(tensor, path) is None:
        return
    text = " ".join(path.frame.module.source(node).split())
    engine.places[made.uid] = at
    path.learn(made, squared=Pack((tensor, Const(text), known)))


def _reduced(call: Call, name: str, tensor: Thing, made: Thing) -> None:
    path = call.path
    held = path.known(tensor, "@squared")
    if not isinstance(held, Pack) or _HALF not in possible(made, path):
        return
    base, text, known = held.items
    engine = call.engine
    if name == "mean" and (known != _ANY or _of_all(made, path)):
        return  # what a loss is made of stays small
    if known == _DATA and not _of_all(made, path):
        return
    found = [certain(engine, value, path) for value in (base, tensor, made)]
    if any(each is None or each.name != _HALF for each in found) or found[0] is None:
        return
    call.emit(
        SquaresReduced(
            at=call.span,
            occasional=call.occasional,
            operation=name,
            tensor=Ref(
                base.uid if isinstance(base, Thing) else 0,
                str(text.value) if isinstance(text, Const) else "",
            ),
            squared=engine.places[tensor.uid],
            because=reasons_of(found[0]),
        )
    )


def _of_layer(call: Call, layer: Thing, made: Thing) -> None:
    """`linear(x)`, and chains of layers that end in one."""
    wide = call.path.known(call.arguments[0], "@wide")
    call.path.learn(made, wide=_through(call, layer, wide))


def _through(call: Call, layer: Value, wide: Value | None) -> Value | None:
    path = call.path
    name = path.known(layer, "@layer")
    if not isinstance(name, Const) or not isinstance(layer, Thing):
        return None
    if kind_of_layer(str(name.value)) is Kind.LOWER:
        return _ANY
    if name.value not in _OPEN_LAYERS:
        return None
    items = path.known(layer, "@items")
    if name.value == "Sequential":
        if not isinstance(items, Pack):
            return None
        for item in items.items:
            wide = _through(call, item, wide)
    return wide


def _is_data(call: Call, tensor: Thing) -> bool:
    """Whether a cast is one of data that nothing is known to have bounded."""
    known = dtype(tensor, call.path)
    if known is not None and known.name in ("bool", "uint8", "int8", "int64", "int32"):
        return False
    operation = (call.engine.identities.description(tensor.uid) or ("",))[0]
    return operation in ("parameter", "each")


def _of_all(made: Thing, path: Path) -> bool:
    """Whether a sum has no dimensions left."""
    known = dtype(made, path)
    return known is not None and known.lone

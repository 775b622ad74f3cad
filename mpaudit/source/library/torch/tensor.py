"""Which dtype tensors have: what operations, layers and autocast regions make of them.

Told after every call, operator and subscript; the tables are in `dtypes`, casts and
constructors in `cast`.
"""

from __future__ import annotations

import ast
from collections.abc import Hashable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from mpaudit.finding import Span
from mpaudit.source.engine.dtypes import Dtype, combined, dtype_named, fact, learned
from mpaudit.source.engine.registry import function, on_operation
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import (
    TRUE,
    UNKNOWN,
    Bound,
    Choice,
    Const,
    External,
    Pack,
    Thing,
    Value,
)
from mpaudit.source.library.python.number import is_number, measured, sized
from mpaudit.source.library.torch import cast as torch_cast
from mpaudit.source.library.torch.dtypes import (
    LOWER_METHODS,
    NUMBER,
    Kind,
    Mode,
    kind_of_layer,
    kind_of_operation,
    result,
)
from mpaudit.source.library.torch.head import head

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

_SUMS = frozenset(
    {"sum", "prod", "mean", "std", "var", "norm", "amax", "amin", "max", "min", "logsumexp"}
)
_SIZED = frozenset({"Linear", "Conv1d", "Conv2d", "Conv3d", "LayerNorm", "Embedding", "GroupNorm"})
_OPERATIONS = ("torch.", "torch.nn.functional.", "torch.special.", "torch.linalg.", "torch.Tensor.")
_BINARY = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
_CONTEXTS = ("entry",)


def mode(engine: Calls, path: Path) -> Value | None:
    """Whether autocast is on here, as a fact for `combined`; None where a caller decides."""
    for region in reversed(path.regions):
        if region.kind == "autocast":
            on = partial(_entered, engine.places.get(region.uid))
            facts = (path.known(region, "@dtype"), path.known(region, "@device"))
            enabled = path.known(region, "@enabled") or TRUE
            return _under(enabled, combined(on, facts, path), _OFF, engine, path)
    for frame in path.frames[1:2]:
        if engine.identities.description(frame.context)[:1] == _CONTEXTS:
            return None
    return _OFF


def certain(engine: Calls, value: Value | None, path: Path) -> Dtype | None:
    """What is known of a tensor's dtype. Raises Fork where it depends on an open condition."""
    known = fact(value, path)
    if known is not None:
        known = engine.logic.pick(known, path)
    return known.value if isinstance(known, Const) and isinstance(known.value, Dtype) else None


_OFF = Const(Mode(on=False))


def _entered(at: Span | None, dtype: object, device: object) -> Hashable:
    return Mode(
        True,
        dtype if isinstance(dtype, str) else None,
        device if isinstance(device, str) else None,
        at,
    )


def _under(
    switch: Value, on: Value | None, off: Value | None, engine: Calls, path: Path
) -> Value | None:
    """`on` where the switch is true and `off` where it is not, in terms of the open questions."""
    known = engine.logic.truth(switch, path)
    if known is not None:
        return on if known else off
    if isinstance(switch, Choice):
        yes = _under(switch.yes, on, off, engine, path)
        no = _under(switch.no, on, off, engine, path)
        return _under(switch.condition, yes, no, engine, path)
    if not isinstance(switch, Thing):
        return None
    operation, *operands = engine.identities.description(switch.uid)
    parts = [part for part in operands if isinstance(part, Value)]
    if operation == "not":
        return _under(parts[0], off, on, engine, path)
    if operation in ("and", "or") and len(parts) <= 3:
        for part in reversed(parts):
            if operation == "and":
                on = _under(part, on, off, engine, path)
            else:
                off = _under(part, on, off, engine, path)
        return on if operation == "and" else off
    return Choice(switch, on or UNKNOWN, off or UNKNOWN)


@on_result()
def called(call: Call, callee: Value, made: Value) -> None:
    """A call is over: work out what its result is."""
    if not isinstance(made, Thing):
        return
    if made.kind == "Module":
        if isinstance(callee, External) and callee.name.rpartition(".")[2] in _SIZED:
            sized(call.arguments, call)
        elif isinstance(callee, Bound) and callee.receiver == made:
            torch_cast.converted_module(call, made)
    if made.kind not in ("", "library"):
        return
    measured(call, made)
    if isinstance(callee, Thing) and callee.kind in ("Module", "Loss"):
        last = head(callee, call.path)
        if isinstance(last, Pack):
            _several(call, made, last)
        elif last is None:
            _learn(call, made, _of_layer(call, callee, call.argument(0)))
        elif isinstance(last, Thing):
            _learn(call, made, _through(call, last, None, ()))
    elif isinstance(callee, External):
        if callee.name.startswith("torch."):
            _of_function(call, callee.name, made)
    elif isinstance(call.receiver, Thing) and not call.receiver.kind:
        _of_method(call, call.receiver, made)


def _several(call: Call, made: Thing, layers: Pack) -> None:
    """A model returns a tuple: what is known of its items."""
    items = []
    for index, layer in enumerate(layers.items):
        item = call.engine.term("output", made, Const(index))
        items.append(call.engine.derive(item, (made,), call.path))
        if isinstance(layer, Thing):
            _learn(call, item, _through(call, layer, None, ()))
    call.path.learn(made, items=Pack(tuple(items)))


def _learn(call: Call, made: Thing, known: Value | None) -> None:
    if known == Const(NUMBER):
        call.path.learn(made, number=TRUE)
    else:
        learned(made, known, call.path)


def _of_function(call: Call, name: str, made: Thing) -> None:
    """`torch.matmul(a, b)`, `F.softmax(x, dim=-1)`, `torch.zeros(3, dtype=torch.half)`."""
    where, _, operation = name.rpartition(".")
    known = torch_cast.constructed(call, operation, made) if where == "torch" else None
    if known is not None:
        _learn(call, made, None if known == UNKNOWN else known)
    elif where + "." in _OPERATIONS:
        _learn(call, made, _of_operation(call, operation, call.arguments))


def _of_method(call: Call, receiver: Thing, made: Thing) -> None:
    """`x.half()`, `x.softmax(-1)`, `q.matmul(k)`."""
    if torch_cast.cast(call, receiver, made):
        return
    if fact(receiver, call.path) is None and not is_number(
        receiver, call.path, call.engine.identities
    ):
        if call.name in LOWER_METHODS and call.engine.region(call.path) is not None:
            _learn(call, made, _of_operation(call, call.name, (receiver, *call.arguments)))
        return
    _learn(call, made, _of_operation(call, call.name, (receiver, *call.arguments)))


def _of_operation(call: Call, name: str, arguments: tuple[Value, ...]) -> Value | None:
    kind = kind_of_operation(name)
    if name in ("max", "min") and len(arguments) == 1 and not call.keywords:
        kind = Kind.KEEP  # of all elements; along a dimension, a pair comes back
    if kind is None:
        return None
    given = dtype_named(call.keywords.get("dtype"))
    if given is not None:
        return Const(Dtype(given, call.span, "cast"))
    if "dtype" in call.keywords:
        return None
    one = len(arguments) < 2 and not {"dim", "axis"} & call.keywords.keys()
    if kind is Kind.KEEP:
        arguments = arguments[:1]
    elif kind is Kind.PROMOTE and name == "where":
        arguments = arguments[1:]
    elif kind is Kind.PROMOTE:
        arguments = (*arguments, *(call.keywords[k] for k in ("other",) if k in call.keywords))
    if name in ("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack"):
        items = _items(arguments[0], call.path) if arguments else None
        if items is None:
            return None
        arguments = items
    elif name == "einsum":
        arguments = arguments[1:]
    elif name in ("cross_entropy", "nll_loss"):  # the target holds the numbers of classes
        arguments = arguments[:1]
    lone = (name in _SUMS and one) or (kind is Kind.LOSS and "reduction" not in call.keywords)
    return _result(call.engine, call.path, kind, arguments, call.span, lone=lone)


def _items(value: Value, path: Path) -> tuple[Value, ...] | None:
    held = value if isinstance(value, Pack) else path.known(value, "@items")
    return held.items if isinstance(held, Pack) and held.items else None


def _result(
    engine: Calls,
    path: Path,
    kind: Kind,
    inputs: Iterable[Value | None],
    at: Span,
    *,
    lone: bool = False,
) -> Value | None:
    """The fact that an operation of a kind makes of its inputs here."""
    facts = [_operand(value, engine, path) for value in inputs]
    if kind in (Kind.KEEP, Kind.PROMOTE):
        if not any(isinstance(each, Value) for each in facts):
            return None
        return combined(lambda *of: result(kind, None, of, at, lone=lone), facts, path)
    return combined(
        lambda on, *of: result(kind, on if isinstance(on, Mode) else None, of, at, lone=lone),
        (mode(engine, path), *facts),
        path,
    )


def _operand(value: Value | None, engine: Calls, path: Path) -> Value | None:
    known = fact(value, path)
    if known is None and is_number(value, path, engine.identities):
        return Const(NUMBER)
    return known


def _of_layer(call: Call, layer: Thing, given: Value | None) -> Value | None:
    """What a layer, or a chain of layers, returns for an input."""
    known = _operand(given, call.engine, call.path)
    return _through(call, layer, known, call.arguments)


def _through(
    call: Call, layer: Thing, known: Value | None, inputs: tuple[Value, ...]
) -> Value | None:
    engine, path = call.engine, call.path
    items = path.known(layer, "@items")
    name = path.known(layer, "@layer")
    if not isinstance(name, Const):
        return None
    if name.value == "Sequential":
        if not isinstance(items, Pack):
            return None
        for item in items.items:
            known = _through(call, item, known, ()) if isinstance(item, Thing) else None
        return known
    if name.value == "Embedding":
        return path.known(layer, "@param_dtype")
    kind = kind_of_layer(str(name.value))
    if kind is None:
        return None
    if kind is Kind.KEEP:
        return known
    if name.value in ("CrossEntropyLoss", "NLLLoss"):
        inputs = ()
    rest = tuple(_operand(value, engine, path) for value in inputs[1:])
    if kind is not Kind.LOSS:
        rest = (*rest, path.known(layer, "@param_dtype"))
    return combined(
        lambda on, *of: result(kind, on if isinstance(on, Mode) else None, of, call.span),
        (mode(engine, path), known, *rest),
        path,
    )


@function("torch.is_autocast_enabled")
def is_autocast_enabled(call: Call) -> Value | None:
    """`torch.is_autocast_enabled()` where it is known; it asks for CUDA."""
    if call.arguments or call.keywords:
        return None
    on = combined(
        lambda on: None if on is None or on.device not in (None, "cuda") else on.on,
        (mode(call.engine, call.path),),
        call.path,
    )
    return on if on is not None and UNKNOWN not in _leaves(on) else None


@function("torch.get_autocast_gpu_dtype", "torch.get_autocast_dtype")
def autocast_dtype(call: Call) -> Value | None:
    """`torch.get_autocast_gpu_dtype()` inside a region."""
    region = call.engine.region(call.path)
    known = call.path.known(region, "@dtype") if region is not None else None
    return External(f"torch.{known.value}") if isinstance(known, Const) and known.value else None


def _leaves(value: Value) -> list[Value]:
    return [*_leaves(value.yes), *_leaves(value.no)] if isinstance(value, Choice) else [value]


@on_operation
def operated(
    engine: Calls, operation: str, operands: tuple[Value, ...], made: Thing, path: Path
) -> None:
    """An operator, or a subscript, was applied."""
    if operation == "[]":
        learned(made, fact(operands[0], path), path)
        return
    facts = [_operand(operand, engine, path) for operand in operands]
    if operation == "MatMult":
        if not path.regions and not any(facts):
            return
        known = combined(partial(_applied, Kind.LOWER, None), (mode(engine, path), *facts), path)
    elif not any(isinstance(each, (Const, Choice)) and each != Const(NUMBER) for each in facts):
        return
    elif operation == "Pow":
        known = combined(partial(_applied, Kind.FLOAT32, None), (mode(engine, path), *facts), path)
    elif operation in ("USub", "UAdd"):
        known = facts[0]
    else:
        kind = Kind.PROMOTE
        known = combined(lambda *of: result(kind, None, of), facts, path)
    learned(made, None if known == Const(NUMBER) else known, path)


def _applied(kind: Kind, at: Span | None, on: object, *inputs: Dtype | None) -> Hashable:
    return result(kind, on if isinstance(on, Mode) else None, inputs, at)

"""Variables of TensorFlow and weights of Keras that are 16 bits themselves, and are trained."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import HalfVariableTrained
from mpaudit.finding import Span
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import FALSE, TRUE, Const, External, Pack, Thing, Value
from mpaudit.source.library.keras.dtype import SEEN, WEIGHT, dtype_named, held
from mpaudit.source.library.keras.models import layers_of
from mpaudit.source.library.keras.names import flat, text
from mpaudit.source.library.keras.values import origin
from mpaudit.source.library.tensorflow.dtypes import HALF

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

_VARIABLES = ("tensorflow.Variable", "tensorflow.compat.v1.Variable")
_WEIGHTS = ("add_weight", "add_variable")
_FITTING = ("fit", "fit_generator", "train_on_batch")
MAX_LAYERS = 500


@on_result(functions=_VARIABLES, methods=(*_WEIGHTS, *_FITTING, "gradient", "minimize"))
def called(call: Call, callee: Value, made: Value) -> None:
    """A variable is made, or variables are trained."""
    path = call.path
    if isinstance(callee, External):
        if isinstance(made, Thing):
            _made(call, made)
        return
    receiver = call.receiver
    if not isinstance(receiver, Thing):
        return
    if call.name in _WEIGHTS and isinstance(made, Thing) and made.kind == WEIGHT:
        _added(call, receiver, made)
    elif SEEN not in path.heap:
        return
    elif call.name == "gradient" and receiver.kind == "GradientTape":
        _trained(call, call.argument(1, "sources"))
    elif call.name == "minimize" and receiver.kind == "KerasOptimizer":
        _trained(call, call.argument(1, "var_list"))
    elif call.name in _FITTING and receiver.kind == "KerasModel":
        _trained(call, receiver)


def _made(call: Call, made: Thing) -> None:
    """`tf.Variable(value, dtype=tf.float16)`."""
    known = held(made, call.path)
    if known is None or known.name not in HALF:
        return
    if FALSE in (call.keywords.get("trainable"), call.argument(1, "trainable")):
        return
    _note(call, made, known.name)


def _added(call: Call, layer: Thing, made: Thing) -> None:
    """`self.add_weight(shape=(3,), dtype="float16")`."""
    path, given = call.path, call.keywords.get("dtype")
    name = None if given is None else dtype_named(given, path)
    if name not in HALF or call.keywords.get("trainable", TRUE) == FALSE:
        return
    path.heap[SEEN] = TRUE
    _note(call, made, str(name))
    before = path.known(layer, "@half_weights")
    path.learn(
        layer, half_weights=Pack((*(before.items if isinstance(before, Pack) else ()), made))
    )


def _note(call: Call, made: Thing, dtype: str) -> None:
    """Note what a variable is, where it is made, and what it is called."""
    module = call.path.frame.module
    statement = module.parents.get(call.node)
    spelt = call.name.rpartition(".")[2]
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        spelt = " ".join(module.source(statement.targets[0]).split())
    call.path.learn(made, half16=Pack((Const(dtype), Const(call.span), Const(spelt))))


def _trained(call: Call, target: Value | None) -> None:
    path = call.path
    for value in flat(target, path):
        owners = path.known(value, "@owners")
        for each in owners.items if isinstance(owners, Pack) else (value,):
            if isinstance(each, Thing):
                for variable in _within(each, path):
                    _tell(call, variable)


def _within(thing: Thing, path: Path) -> list[Thing]:
    """The variables of 16 bits that a variable is, or that a model or layer has."""
    if path.known(thing, "@half16") is not None:
        return [thing]
    found: list[Thing] = []
    waiting = [thing]
    seen: set[int] = set()
    while waiting and len(seen) < MAX_LAYERS:
        owner = waiting.pop()
        if owner.uid in seen or owner.kind not in ("KerasLayer", "KerasModel"):
            continue
        seen.add(owner.uid)
        if path.heap.get((owner.uid, "trainable")) == FALSE:
            continue
        known = path.known(owner, "@half_weights")
        found += [e for e in known.items if isinstance(e, Thing)] if isinstance(known, Pack) else []
        for name, value in path.heap.of(owner.uid):
            if name[0] != "@":
                parts = [part for part in flat(value, path) if isinstance(part, Thing)]
                found += [part for part in parts if path.known(part, "@half16") is not None]
                waiting += [part for part in parts if part.kind == "KerasLayer"]
        waiting += layers_of(owner, path)
        outputs = path.known(owner, "@outputs")
        found += _in_graph(outputs.items, path) if isinstance(outputs, Pack) else []
    counters = {each for each in found if path.known(each, "@one16") is not None}
    return [each for each in dict.fromkeys(found) if each not in counters]


def _in_graph(outputs: tuple[Value, ...], path: Path) -> list[Thing]:
    """The weights that the project's own layers have put into what leaves a functional model."""
    found: list[Thing] = []
    waiting = list(outputs)
    seen: set[int] = set()
    while waiting and len(seen) < MAX_LAYERS:
        tensor = waiting.pop()
        if not isinstance(tensor, Thing) or tensor.uid in seen:
            continue
        seen.add(tensor.uid)
        if path.known(tensor, "@half16") is not None and not _frozen(tensor, path):
            found.append(tensor)
        known = origin(tensor, path)
        waiting += flat(Pack(known.inputs), path) if known is not None else []
    return found


def _frozen(weight: Thing, path: Path) -> bool:
    """Whether the layer that a weight belongs to is not trained."""
    known = path.known(weight, "@weight")
    owner = known.items[0] if isinstance(known, Pack) else None
    return isinstance(owner, Thing) and path.heap.get((owner.uid, "trainable")) == FALSE


def _tell(call: Call, variable: Thing) -> None:
    known = call.path.known(variable, "@half16")
    if not isinstance(known, Pack):
        return
    name, at, what = known.items
    if isinstance(at, Const) and isinstance(at.value, Span):
        call.emit(
            HalfVariableTrained(
                at=at.value,
                occasional=call.occasional,
                variable=text(what) or "",
                dtype=text(name) or "",
                trained=call.span,
            )
        )

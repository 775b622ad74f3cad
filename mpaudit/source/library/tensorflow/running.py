"""Counters, running sums, averages and metrics of TensorFlow and Keras that are kept in 16 bits."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import HalfAverageMoved, HalfMetricMade
from mpaudit.source.api.keras_names import ROOTS, last
from mpaudit.source.engine.registry import on_binary
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import TRUE, Const, External, Pack, Thing, Value
from mpaudit.source.library.half_sum import LARGEST_SHARE, is_assigned_back, share_of, tell_added
from mpaudit.source.library.keras.dtype import SEEN, WEIGHT, dtype_named, held, reasons
from mpaudit.source.library.keras.names import text
from mpaudit.source.library.keras.policy_name import policy_name
from mpaudit.source.library.tensorflow.dtypes import HALF
from mpaudit.source.trait.keras_version import generation

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

_OWN = ("tensorflow.", "keras.", "tf_keras.")
_METRICS = tuple(f"{root}.metrics." for root in ROOTS)
_MAKING = ("constant", "Variable", "convert_to_tensor", "cast", "zeros", "ones", "fill")
_STEPS = ("train_step", "test_step", "update_state")
"""Methods that Keras runs for every batch."""


@on_result(
    functions=lambda name: name.startswith((*_OWN, *_METRICS)), methods=("assign_add", "assign")
)
def called(call: Call, callee: Value, made: Value) -> None:
    """A call of a library is over: a number made, added to; an average moved; a metric made."""
    path = call.path
    if isinstance(callee, External):
        if callee.name.startswith(_METRICS):
            _metric(call, callee.name)
        elif SEEN in path.heap and isinstance(made, Thing) and _is_one_number(call, callee.name):
            path.learn(made, one16=TRUE)
        return
    receiver = call.receiver
    if SEEN not in path.heap or not isinstance(receiver, Thing) or not call.arguments:
        return
    if call.name == "assign_add" and isinstance(call.node.func, ast.Attribute):
        _added(call.engine, path, call.node, receiver, call.argument(0), call.node.func.value)
    elif call.name == "assign":
        _moved(call, receiver)


def _metric(call: Call, name: str) -> None:
    given = call.keywords.get("dtype")
    if given is None or not last(name)[:1].isupper():
        return
    dtype, policy = dtype_named(given, call.path), policy_name(given, call.path) or ""
    if dtype not in HALF:
        return
    if policy.startswith("mixed") and generation(name, call.path.frame.module) != 3:
        return
    call.emit(
        HalfMetricMade(at=call.span, occasional=call.occasional, metric=last(name), dtype=dtype)
    )


def _is_one_number(call: Call, name: str) -> bool:
    word, path = last(name), call.path
    if not name.startswith(_OWN) or word not in _MAKING:
        return False
    given = call.arguments[0] if call.arguments else call.keywords.get("initial_value")
    if word in ("zeros", "ones", "fill"):
        items = path.known(given, "@items") if isinstance(given, Thing) else given
        return isinstance(items, Pack) and not items.items
    if isinstance(given, Thing):
        return path.known(given, "@one16") is not None
    return isinstance(given, Const) and isinstance(given.value, (int, float))


@on_binary
def operated(
    engine: Calls, node: ast.BinOp | ast.AugAssign, left: Value, right: Value, path: Path
) -> None:
    """`total += loss`, `total = total + loss`."""
    if SEEN not in path.heap or not isinstance(node.op, ast.Add) or not isinstance(left, Thing):
        return
    if not isinstance(node, ast.AugAssign) and not is_assigned_back(node, path):
        return
    target = node.target if isinstance(node, ast.AugAssign) else node.left
    root = _added(engine, path, node, left, right, target)
    if root is not None:
        path.learn(engine.term("Add", left, right), running16=root)


def _added(
    engine: Calls, path: Path, at: ast.AST, left: Thing, right: Value | None, target: ast.expr
) -> Value | None:
    """Tell of an addition to a number in 16 bits. Returns what stands for the number."""
    root = path.known(left, "@running16")
    if root is None:
        known = held(left, path)
        if path.known(left, "@one16") is None or known is None or known.name not in HALF:
            return None
        root = Pack((left, Const(known)))
    tell_added(
        engine,
        path,
        root,
        at,
        right,
        target,
        because=lambda total, _: reasons(total, path),
        methods=_STEPS,
    )
    return root


def _moved(call: Call, receiver: Thing) -> None:
    """`average.assign(d * average + (1 - d) * weight)` of a variable of 16 bits.

    A weight of a layer is one only if it was added as such: `call` sees others in 16 bits as well.
    """
    weight = call.path.known(receiver, "@weight") if receiver.kind == WEIGHT else None
    if isinstance(weight, Pack) and text(weight.items[1]) not in HALF:
        return
    known, share = held(receiver, call.path), share_of(call.argument(0), receiver, call)
    if known is None or known.name not in HALF or share is None or not 0 < share < LARGEST_SHARE:
        return
    call.emit(
        HalfAverageMoved(
            at=call.span,
            occasional=call.occasional,
            tensor=call.ref(receiver),
            dtype=known.name,
            share=share,
            cast=known.at,
            because=reasons(receiver, call.path),
        )
    )

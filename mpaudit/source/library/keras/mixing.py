"""Tensors of two dtypes that meet in the `call` of a project's own layer: TensorFlow refuses them."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpaudit.event import Ref, TensorsMixed
from mpaudit.source.api.keras_names import last
from mpaudit.source.engine.registry import on_binary
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import Thing, Value
from mpaudit.source.library.keras.dtype import SEEN, held, in_call, reasons, tensors_of
from mpaudit.source.library.tensorflow.dtypes import FLOATS, HALF, Kind, kind_of

if TYPE_CHECKING:
    from mpaudit.finding import Span
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

_OTHER_BACKEND = re.compile(r"KERAS_BACKEND\W+(?:jax|torch)\b")
"""Where Keras runs on something that finds a common dtype."""
BY_POLICY = ("layer", "input", "weight")
"""How a tensor comes to a dtype that the source does not give."""


@on_binary
def met(
    engine: Calls, node: ast.BinOp | ast.AugAssign, left: Value, right: Value, path: Path
) -> None:
    """`x * tf.sqrt(tf.cast(size, tf.float32))`."""
    if SEEN not in path.heap:
        return
    nodes = (
        (node.target, node.value) if isinstance(node, ast.AugAssign) else (node.left, node.right)
    )
    operation = type(node.op).__name__
    _mixed(engine, operation, path.frame.module.span(node), (left, right), nodes, path)


@on_result(functions=lambda name: kind_of(name) is Kind.JOIN, methods=(), given=SEEN)
def joined(call: Call, _: Value, __: Value) -> None:
    """`tf.matmul(tf.cast(x, tf.float32), self.kernel)`."""
    operands, nodes = tensors_of(call), _nodes(call)
    skipped = 1 if last(call.name) == "where" else 0
    if len(operands) == len(nodes):
        at, name = call.span, last(call.name)
        _mixed(call.engine, name, at, operands[skipped:], nodes[skipped:], call.path)


def _nodes(call: Call) -> list[ast.expr]:
    """The syntax of what `tensors_of` finds, where that is in the call itself."""
    found: list[ast.expr] = []
    for node in call.node.args:
        found.extend(node.elts if isinstance(node, (ast.List, ast.Tuple)) else [node])
    return found


def _mixed(
    engine: Calls,
    operation: str,
    at: Span,
    operands: Sequence[Value],
    nodes: Sequence[ast.expr],
    path: Path,
) -> None:
    if not in_call(path) or _OTHER_BACKEND.search(path.frame.module.text):
        return
    known = [
        (each, value, node)
        for value, node in zip(operands, nodes, strict=True)
        if (each := held(value, path)) is not None and each.name in FLOATS
    ]
    names = {each.name for each, _, _ in known}
    if len(names) != 2 or names.isdisjoint(HALF):
        return
    known.sort(key=lambda each: each[0].how in BY_POLICY)
    pinned, policy = known[0], next(each for each in known if each[0].name != known[0][0].name)
    texts = [" ".join(path.frame.module.source(node).split()) for _, _, node in (pinned, policy)]
    engine.emit(
        TensorsMixed(
            at=at,
            operation=operation,
            pinned=_ref(pinned[1], texts[0]),
            pinned_dtype=pinned[0].name,
            policy=_ref(policy[1], texts[1]),
            policy_dtype=policy[0].name,
            because=(*reasons(pinned[1], path), *reasons(policy[1], path)),
        ),
        path,
    )


def _ref(value: Value, text: str) -> Ref:
    return Ref(value.uid if isinstance(value, Thing) else ("value", value), text)

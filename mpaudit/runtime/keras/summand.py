"""What a sum in a graph is the sum of: a tap adds it up by itself where reading it would be seen.

TensorFlow gathers additions of which each is used by the next one only, and adds in another order: the
smaller of a batch normalisation's terms last, say, behind the other end of a residual connection. A
tap on what is in between would end that, and the model would train to other last bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

Plan = int | tuple["Plan", ...]
"""How to add up: the place of a summand, or the plans of what is added in this order."""

OURS = ".mpaudit"
"""The name of what the probe adds to a graph."""

_SUMS = ("Add", "AddV2", "AddN")
_MOST = 16


def summands(value: Any) -> tuple[list[Any], Plan]:
    """The tensors that `value` is the sum of, and how they are added; else itself.

    A sum among them that is used more than once stays whole: TensorFlow gathers it with nothing.
    """
    if getattr(value, "graph", None) is not tf.compat.v1.get_default_graph():
        return [value], 0
    found: list[Any] = []
    plan = _plan(value, found, whole=False)
    return (found, plan) if len(found) <= _MOST else ([value], 0)


def added(plan: Plan, given: Sequence[Any]) -> Any:
    """The sum."""
    if isinstance(plan, int):
        return given[plan]
    total = added(plan[0], given)
    for each in plan[1:]:
        total = total + added(each, given)
    return total


def _plan(tensor: Any, found: list[Any], *, whole: bool) -> Plan:
    source = _source(tensor)
    sums = source.op.type in _SUMS and not (whole and _uses(source) > 1)
    if sums and len(found) < _MOST:
        return tuple(_plan(each, found, whole=True) for each in source.op.inputs)
    found.append(tensor)
    return len(found) - 1


def _source(tensor: Any) -> Any:
    """What an identity, which TensorFlow takes out, passes on."""
    while tensor.op.type == "Identity" and not tensor.op.control_inputs:
        tensor = tensor.op.inputs[0]
    return tensor


def _uses(tensor: Any) -> int:
    """How often a tensor is used so far, its shape and the probe aside."""
    number = 0
    for operation in tensor.consumers():
        if operation.type == "Identity":
            number += _uses(operation.outputs[0])
        elif operation.type != "Shape" and not operation.name.startswith(f"{OURS}/"):
            number += 1
    return number


def sums_many(graph: Any) -> bool:
    """Whether a graph, or one around it, has a sum of more than two tensors."""
    while hasattr(graph, "outer_graph"):
        if any(_is_long(each) for each in graph.get_operations() if each.type in _SUMS):
            return True
        graph = graph.outer_graph
    return False


def _is_long(operation: Any) -> bool:
    inputs = operation.inputs
    return operation.outputs[0].dtype.is_floating and (
        len(inputs) > 2 or any(_source(each).op.type in _SUMS for each in inputs)
    )

"""How a tensor in a graph is made: a tap makes it again by itself where reading it would be seen.

TensorFlow gathers additions of which each is used by the next one only, and adds in another order: the
smaller of a batch normalisation's terms last, say, behind the other end of a residual connection. In
the same way it multiplies in another order: a gradient's factors by the learning rate first. And it makes
one operation of a matrix product, its bias, and an addition or an activation behind them. A tap on what
is in between would end that, and the model would train to other last bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf


class Made(NamedTuple):
    """An operation, by its type and attributes, of what other plans give."""

    type: str
    inputs: tuple[str, ...]  # their names
    attributes: tuple[tuple[str, Any], ...]
    of: tuple[Plan, ...]


Plan = int | Made
"""How to make a tensor: the place of an ingredient, or what is made of several plans."""

OURS = ".mpaudit"
"""The name of what the probe adds to a graph."""

_SUMS = ("Add", "AddV2", "AddN")
_FACTORS = ("Mul", "RealDiv")
_PRODUCTS = ("MatMul", "Conv2D", "Conv3D", "DepthwiseConv2dNative")
_BIAS = "BiasAdd"
_IDENTITIES = ("Identity", "IdentityN")
_JOINED = (*_SUMS, _BIAS, "Relu", "Relu6", "Elu", "LeakyRelu", "Tanh", "Sigmoid")
"""What TensorFlow makes one operation of with a product before it."""
_MOST = 16


def ingredients(value: Any) -> tuple[list[Any], Plan]:
    """The tensors that `value` is made of again, and how; else itself.

    What is used more than once stays whole: TensorFlow makes nothing else of it.
    """
    if getattr(value, "graph", None) is not tf.compat.v1.get_default_graph():
        return [value], 0
    found: list[Any] = []
    source = _source(value)
    plan = _made(source, found) if _goes_on(source) else _plan(value, found)
    return (found, plan) if len(found) <= _MOST else ([value], 0)


def made(plan: Plan, given: Sequence[Any]) -> Any:
    """What comes of the ingredients."""
    if isinstance(plan, int):
        return given[plan]
    inputs = [made(each, given) for each in plan.of]
    if plan.type in _SUMS:  # in this order
        total = inputs[0]
        for each in inputs[1:]:
            total = total + each
        return total
    given_by_name = zip(plan.inputs, inputs, strict=True)
    return getattr(tf.raw_ops, plan.type)(**dict(given_by_name), **dict(plan.attributes))


def _plan(tensor: Any, found: list[Any]) -> Plan:
    source = _source(tensor)
    if len(found) < _MOST and _joined(source):
        return _made(source, found)
    found.append(tensor)
    return len(found) - 1


def _made(source: Any, found: list[Any]) -> Made:
    operation = source.op
    of = tuple(_plan(each, found) for each in operation.inputs)
    if operation.type in _SUMS:
        return Made(operation.type, (), (), of)
    names = tuple(each.name for each in operation.op_def.input_arg)
    attributes = tuple(
        (each.name, _frozen(operation.get_attr(each.name)))
        for each in operation.op_def.attr
        if each.type != "type"
    )
    return Made(operation.type, names, attributes, of)


def _goes_on(source: Any) -> bool:
    """Whether it is a sum, or a product of which a further one is made, if only later."""
    kind, users = source.op.type, _users(source)
    multiplied = kind in _FACTORS and all(each.type in _FACTORS for each in users)
    return len(users) < 2 and (kind in _SUMS or multiplied)


def _joined(source: Any) -> bool:
    """Whether TensorFlow makes one operation of this one and what uses it."""
    kind, users = source.op.type, _users(source)
    if len(users) != 1:
        return False
    (user,) = users
    if kind == _BIAS:
        product = _source(source.op.inputs[0])
        return user.type in _JOINED and product.op.type in _PRODUCTS and len(_users(product)) == 1
    return any(
        kind in one and user.type in other
        for one, other in ((_SUMS, _SUMS), (_FACTORS, _FACTORS), (_PRODUCTS, (*_SUMS, _BIAS)))
    )


def _source(tensor: Any) -> Any:
    """What an identity, which TensorFlow takes out, passes on."""
    while tensor.op.type in _IDENTITIES and not tensor.op.control_inputs:
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


def _users(tensor: Any) -> list[Any]:
    """The operations that use a tensor so far, its shape and the probe aside."""
    found: dict[str, Any] = {}
    for operation in tensor.consumers():
        if operation.type in _IDENTITIES:
            passed = zip(operation.inputs, operation.outputs, strict=True)
            for result in (result for given, result in passed if given is tensor):
                found.update((each.name, each) for each in _users(result))
        elif operation.type != "Shape" and not operation.name.startswith(f"{OURS}/"):
            found[operation.name] = operation
    return list(found.values())


def _frozen(value: Any) -> Any:
    """An attribute as a key; texts come as bytes."""
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return value.decode() if isinstance(value, bytes) else value


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

"""What is done in the attempts that are looked at alone, and passed over in the others.

A condition that does not hold is called all the same, for its other branch: that takes ten microseconds
and more. An operation of which one input is not there is passed over, as all that is behind a switch is.
No tensor is switched, only the tick that goes with each: TensorFlow's estimate of which tensors are in
memory when takes one behind a switch for another one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import tensorflow as tf

from mpaudit.runtime.keras.order import vectorised
from mpaudit.runtime.keras.parcel import Asked


class Switch:
    """That of one attempt: what takes the tick from here is passed over unless the attempt is looked at.

    It takes copies of handles, too. What uses a resource later has to wait, in TensorFlow's order, for
    what used it before, and would be passed over as well. It knows a copy's user for that of another
    resource; what comes later waits for the clock, which is kept in each attempt, behind `joined`.
    """

    def __init__(self, asked: Asked) -> None:
        _retraced_by_xla()
        self._copies: dict[int, Any] = {}
        self._over, tick = tf.raw_ops.Switch(data=asked.tick, pred=asked.looks)
        self.asked = asked._replace(tick=tick)

    def copy(self, handle: Any) -> Any:
        """The same resource as another tensor, which is there once."""
        if id(handle) not in self._copies:
            (self._copies[id(handle)],) = tf.raw_ops.IdentityN(input=[handle])
        return self._copies[id(handle)]

    def joined(self, wrong: Iterable[Any]) -> Any:
        """Whether something is wrong in what was done, if it was; this is there in each attempt."""
        found = tf.reduce_any(tf.stack(list(wrong)))
        joined, _ = tf.raw_ops.Merge(inputs=[self._over < 0, found])
        # else TensorFlow has it wait for all that has an effect, and all that follows for it
        tf.compat.v1.get_default_graph().experimental_acd_manager.run_independently(joined.op)
        return joined


def switches() -> bool:
    """Whether there may be one in the graph that is being traced: neither XLA nor what vectorises a body
    takes it, and TensorFlow has to say who orders the graph."""
    from tensorflow.python.ops import control_flow_util

    graph = tf.compat.v1.get_default_graph()
    if control_flow_util.GraphOrParentsInXlaContext(graph) or _concrete():
        return False
    if getattr(graph, "experimental_acd_manager", None) is None:
        return False
    while graph is not None:
        if vectorised(graph):
            return False
        graph = getattr(graph, "outer_graph", None)
    return True


def _concrete() -> bool:
    """Whether what is traced is a concrete function: it is called as it is, by XLA's graphs as well."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "get_concrete_function":
            return True
        frame = frame.f_back
    return False


def _retraced_by_xla() -> None:
    """Have functions traced again where XLA compiles them, from now on and for as long as there are graphs
    with a switch: one that is called in two graphs would be the same in both."""
    from tensorflow.python.ops.control_flow_ops import XLAControlFlowContext

    XLAControlFlowContext.RequiresUniqueFunctionRetracing = lambda _: True

"""Where a graph keeps what it counts: one resource for each replica of a strategy, on its device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import device_util

_ANONYMOUS = "cd2c89b7-88b7-44c8-ad83-06c2a9158347"
"""The shared name by which TensorFlow makes a resource that lives as long as its handle."""


def resource(start: Any) -> Any:
    """A fresh resource that holds `start`, outside every graph that is being traced.

    A plain resource and no `tf.Variable`: tapes, models and distribution strategies do not see it.
    What it holds is noted on the handle, as for a variable: TensorFlow wants to know that when the
    backward pass of a graph is a graph of its own.
    """
    from tensorflow.python.ops import handle_data_util

    with tf.init_scope():
        handle = tf.raw_ops.VarHandleOp(
            dtype=start.dtype, shape=start.shape, shared_name=_ANONYMOUS
        )
        handle._handle_data = handle_data_util.create_handle_data(start.shape, start.dtype)
        tf.raw_ops.AssignVariableOp(resource=handle, value=start)
    return handle


def replica() -> int:
    """The replica that is computed now, counted from 0; 0 where there is one only."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return 0
    context = tf.distribute.get_replica_context()
    found = None if context is None else tf.get_static_value(context.replica_id_in_sync_group)
    return 0 if found is None else int(found)


def one_of_several() -> int | None:
    """The same, None where there is one only."""
    return replica() if tf.distribute.get_strategy().num_replicas_in_sync > 1 else None


def unseen() -> str | None:
    """Why numbers cannot be taken under the strategy in force, None if they can."""
    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync == 1 or type(strategy) is tf.distribute.MirroredStrategy:
        return None
    return f"under {type(strategy).__name__} only dtypes are seen of several replicas"


def noted(name: str) -> dict[Any, Any]:
    """What is noted by a name of the graph that is being traced."""
    graph = tf.compat.v1.get_default_graph()
    if not hasattr(graph, name):
        setattr(graph, name, {})
    found: dict[Any, Any] = getattr(graph, name)
    return found


class Store:
    """Resources that begin with what `start` makes, each of them made when it is first needed."""

    __slots__ = ("_dtype", "_handles", "_start")

    def __init__(self, dtype: Any, start: Callable[[], Any]) -> None:
        self._dtype = dtype
        self._handles: dict[int, Any] = {}
        self._start = start

    @property
    def here(self) -> Any:
        """That of the replica which is computed now."""
        number = replica()
        if number not in self._handles:
            device = device_util.current() if number else None
            with tf.init_scope(), tf.device(device) if device else nullcontext():
                self._handles[number] = resource(tf.constant(self._start(), self._dtype))
        return self._handles[number]

    def __iter__(self) -> Iterator[Any]:
        """All that there are, that of the first replica first."""
        return iter([self._handles[number] for number in self.replicas])

    @property
    def replicas(self) -> list[int]:
        """Of which replicas they are."""
        return sorted(self._handles)

    def held(self) -> dict[int, Any]:
        """What that of each replica holds, as NumPy has it. Waits for the device."""
        with tf.init_scope():
            return {
                number: tf.raw_ops.ReadVariableOp(resource=handle, dtype=self._dtype).numpy()
                for number, handle in self._handles.items()
            }

    def swap(self, change: Callable[[Any], Any]) -> list[Any]:
        """What each of them holds, as NumPy has it; `change` says what it holds from now on.

        Waits for the device.
        """
        found = []
        with tf.init_scope():
            for handle in self:
                held = tf.raw_ops.ReadVariableOp(resource=handle, dtype=self._dtype).numpy()
                value = tf.constant(change(held), self._dtype)
                tf.raw_ops.AssignVariableOp(resource=handle, value=value)
                found.append(held)
        return found

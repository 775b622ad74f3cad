"""Operations of a backward pass, one after the other where nothing else orders them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf


class Order:
    """What one place does on its resource in graphs that consist of a backward pass.

    Such a graph neither runs nor orders operations for their effect alone.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: tuple[weakref.ref[Any], Any] | None = None  # graph and operation

    def run(self, operation: Callable[[], Any]) -> Any:
        """Have `operation` made, after the last one; gives what something has to wait for, or None.

        A body that is being vectorised (a jacobian) cannot wait, and nothing is done there.
        """
        inside = tf.compat.v1.get_default_graph()
        if vectorised():
            return None
        before, self._last = self._last, None
        waits = [before[1]] if before is not None and before[0]() is inside else []
        with tf.control_dependencies(waits):
            done = operation()
        if done is not None:
            self._last = weakref.ref(inside), done
        return done


def runs_by_itself() -> bool:
    """Whether what is done now for its effect alone runs, and in order: nothing has to wait for it.

    A graph that consists of a backward pass is none of those that see to that.
    """
    return bool(tf.compat.v1.get_default_graph()._add_control_dependencies)


def vectorised(graph: Any = None) -> bool:
    """Whether the body of a loop is traced, here or in a graph, that TensorFlow turns into operations on
    whole batches."""
    graph = tf.compat.v1.get_default_graph() if graph is None else graph
    return "loop_body" in graph.get_name_scope().split("/")

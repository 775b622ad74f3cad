"""Replicas are computed in threads of their own: what the user's code does meanwhile, in another one."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

from mpaudit.runtime.keras.patch import Call, Patches

_CALLS: list[tuple[Any, int, FrameType]] = []
"""Of each call that waits for replicas: of which strategy, in which thread, where."""


def behind() -> tuple[int, FrameType] | None:
    """Thread and frame that wait for the replica which is computed in this thread.

    None where there are none, or several threads that wait for replicas of one strategy.
    """
    if not _CALLS:
        return None
    import tensorflow as tf  # where Keras is on torch there may be none

    if tf.distribute.in_cross_replica_context():
        return None
    strategy = tf.distribute.get_strategy()
    calls = [(thread, frame) for of, thread, frame in _CALLS if of is strategy]
    threads = {thread for thread, _ in calls}
    if len(threads) != 1 or threading.get_ident() in threads:
        return None
    return calls[-1]


class ReplicaThreads:
    """Watches strategies that have their replicas computed."""

    def __init__(self, patches: Patches) -> None:
        self._patches = patches

    def install(self) -> None:
        """All of them do it by one method."""
        import tensorflow as tf

        extended = tf.compat.v1.distribute.StrategyExtended  # which all derive from
        self._patches.wrap(extended, "call_for_each_replica", self._around)

    def _around(self, original: Call) -> Call:
        def call_for_each_replica(extended: Any, *args: Any, **kwargs: Any) -> Any:
            strategy = extended._container_strategy()
            call = strategy, threading.get_ident(), sys._getframe(1)
            _CALLS.append(call)
            try:
                return original(extended, *args, **kwargs)
            finally:
                _CALLS.remove(call)

        return call_for_each_replica

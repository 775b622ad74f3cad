"""How often graphs run: what is in one is then counted once for the graph, not again at each place."""

from __future__ import annotations

import weakref
from typing import Any

import tensorflow as tf

from mpaudit.runtime.keras.store import Store, noted, replica
from mpaudit.runtime.keras.sweep import swept

_RUN = "_mpaudit_run"


class Run:
    """The runs of one graph, also of the body of a loop or the branch of a condition.

    What each replica of a strategy does in a graph runs as often as the others'.
    """

    __slots__ = ("_graphs", "_store")

    def __init__(self, graph: Any) -> None:
        self._store = Store(tf.int64, lambda: 0)
        self._graphs = []
        while hasattr(graph, "outer_graph"):  # the outermost one is of no function, and stays
            self._graphs.append(weakref.ref(graph))
            graph = graph.outer_graph
        one = tf.constant(1, tf.int64)
        tf.raw_ops.AssignAddVariableOp(resource=self._store.here, value=one)

    @classmethod
    def here(cls) -> Run:
        """Of the graph that is being traced."""
        held: dict[int, Run] = noted(_RUN)
        number = replica()
        if number not in held:
            held[number] = cls(tf.compat.v1.get_default_graph())
        return held[number]

    def read(self) -> int:
        """How many there were. Waits for the device."""
        (runs,) = swept(self._store)
        return int(runs)

    @property
    def over(self) -> bool:
        """Whether there will be no more: the graph is gone, and so are those around it."""
        if self._graphs and self._graphs[0]() is not None:  # as a rule: asked for each tap
            return False
        return all(each() is None for each in self._graphs)


class Calls:
    """What one place has in graphs: calls in training, and others, in one run of each."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[Run, list[int]] = {}  # calls, others, runs read so far

    def add(self, calls: int, others: int) -> None:
        """The graph that is being traced has more."""
        run = Run.here()
        held = self._held.setdefault(run, [0, 0, 0])
        held[0] += calls
        held[1] += others

    @property
    def held(self) -> int:
        """Of how many graphs."""
        return len(self._held)

    def read(self) -> tuple[int, int]:
        """The calls since the last read, and the others. Waits for the device."""
        calls = others = 0
        for run, held in list(self._held.items()):
            over, runs = run.over, run.read()
            more, held[2] = runs - held[2], runs
            calls, others = calls + more * held[0], others + more * held[1]
            if over:
                del self._held[run]
        return calls, others

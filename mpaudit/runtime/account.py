"""What is seen of one layer, counted with the layer at hand until a flush hands it to the tracer."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from mpaudit.runtime.origin import Values
from mpaudit.runtime.record import Flow, Phase, Sums
from mpaudit.runtime.tracer import Tracer

Counts = defaultdict[str, int]
Numbers = defaultdict[str, Sums]


class Account:
    """Counts and numbers of one layer since the last flush, by plain names of dtypes."""

    __slots__ = (
        "backward",
        "dtype",
        "forward",
        "inputs",
        "output_grads",
        "outputs",
        "parameters",
        "path",
    )

    def __init__(self, path: str, *, parameters: bool) -> None:
        self.path = path
        self.parameters = parameters
        """Whether it has some of its own."""
        self.dtype = "float32"
        """That of its last output."""
        self.inputs: Counts = defaultdict(int)
        self.outputs: Counts = defaultdict(int)
        self.output_grads: Counts = defaultdict(int)
        self.forward: Numbers = defaultdict(Sums)
        self.backward: Numbers = defaultdict(Sums)

    def gave(self, step: int, dtype: str, values: Values) -> None:
        """An output was measured."""
        numbers = values.elements, values.amax, values.inf, values.nan
        self.forward[dtype].add(step, *numbers)

    def got_back(self, step: int, dtype: str, values: Values) -> None:
        """The gradient of an output was measured."""
        self.output_grads[dtype] += 1
        numbers = values.elements, values.amax, values.inf, values.nan
        self.backward[dtype].add(step, *numbers)

    def hand_over(self, tracer: Tracer) -> None:
        """Tell the tracer, and begin anew."""
        flows: tuple[tuple[Flow, Counts], ...] = (
            ("input", self.inputs),
            ("output", self.outputs),
            ("output_grad", self.output_grads),
        )
        for flow, counts in flows:
            for dtype, count in counts.items():
                tracer.saw(self.path, flow, dtype, count)
            counts.clear()
        phases: tuple[tuple[Phase, Numbers], ...] = (
            ("forward", self.forward),
            ("backward", self.backward),
        )
        for phase, numbers in phases:
            for dtype, sums in numbers.items():
                tracer.measured(sums.statistics(self.path, phase, dtype))
            numbers.clear()


class Accounts:
    """Those of all layers, by path."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._accounts: dict[str, Account] = {}
        self.lock = tracer.lock

    def of(self, path: str, module: Any) -> Account:
        """The account of a layer, opened if there is none."""
        account = self._accounts.get(path)
        if account is None:
            with self.lock:
                account = Account(path, parameters=bool(module._parameters))
                account = self._accounts.setdefault(path, account)
        return account

    def dtype(self, path: str) -> str:
        """The plain name of the dtype of a layer's last output; float32 before the first."""
        account = self._accounts.get(path)
        return "float32" if account is None else account.dtype

    def hand_over(self) -> None:
        """Tell the tracer what was counted since the last time."""
        with self.lock:
            for account in self._accounts.values():
                account.hand_over(self._tracer)

"""What is seen of one layer, counted with the layer at hand until a flush hands it to the tracer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from msgspec import Struct

from mpaudit.runtime.measured import Values
from mpaudit.runtime.record import Flow, Phase, Statistics
from mpaudit.runtime.tracer import Tracer

_PHASES: dict[Flow, Phase] = {"output": "forward", "output_grad": "backward"}


class _Sums(Struct):
    """Tensors of one flow and dtype while they come, and the numbers of those that were measured."""

    flow: Flow
    dtype: str
    tensors: int = 0
    calls: int = 0
    elements: int = 0
    inf: int = 0
    nan: int = 0
    first_bad_step: int | None = None
    last_bad_step: int | None = None
    amax: float | None = None

    def add(self, step: int, values: Values) -> None:
        """A tensor of a step was measured; the steps come in order."""
        self.calls += 1
        self.elements += values.elements
        if values.inf or values.nan:
            self.inf += values.inf
            self.nan += values.nan
            self.last_bad_step = step
            if self.first_bad_step is None:
                self.first_bad_step = step
        if values.amax is not None and (self.amax is None or values.amax > self.amax):
            self.amax = values.amax

    def statistics(self, layer: str, phase: Phase) -> Statistics:
        """The row of a trace that they make."""
        counts = self.calls, self.elements, self.inf, self.nan
        bad = self.first_bad_step, self.last_bad_step
        return Statistics(layer, phase, self.dtype, *counts, *bad, self.amax)


class Account:
    """Counts and numbers of one layer since the last flush.

    There is one for each layer of a run, with a handful of dtypes and flows: a list of those is
    searched faster than a mapping is worth its memory.
    """

    __slots__ = ("_sums", "dtype", "parameters", "path")

    def __init__(self, path: str, *, parameters: bool) -> None:
        self.path = path
        self.parameters = parameters
        """Whether it has some of its own."""
        self.dtype = "float32"
        """The plain name of that of its last output."""
        self._sums: list[_Sums] = []

    def _of(self, flow: Flow, dtype: str) -> _Sums:
        for each in self._sums:
            if each.dtype == dtype and each.flow == flow:
                return each
        found = _Sums(flow, dtype)
        self._sums.append(found)
        return found

    def took(self, dtype: str) -> None:
        """It was called with a tensor."""
        self._of("input", dtype).tensors += 1

    def made(self, dtype: str) -> None:
        """It gave a tensor out."""
        self.dtype = dtype
        self._of("output", dtype).tensors += 1

    def gave(self, step: int, dtype: str, values: Values) -> None:
        """An output was measured."""
        self._of("output", dtype).add(step, values)

    def got_back(self, step: int, dtype: str, values: Values) -> None:
        """The gradient of an output came, and was measured."""
        sums = self._of("output_grad", dtype)
        sums.tensors += 1
        sums.add(step, values)

    def got_scale(self, dtype: str) -> None:
        """The gradient of a loss came: the loss scale, which is no number of the layer."""
        self._of("output_grad", dtype).tensors += 1

    def hand_over(self, tracer: Tracer) -> None:
        """Tell the tracer, and begin anew."""
        for each in self._sums:
            if each.tensors:
                tracer.saw(self.path, each.flow, each.dtype, each.tensors)
            if each.calls:
                tracer.measured(each.statistics(self.path, _PHASES[each.flow]))
        self._sums.clear()


class Accounts:
    """Those of all layers, by path."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._accounts: dict[str, Account] = {}
        self.lock = tracer.lock
        tracer.forgetting.append(self._accounts.clear)

    def of(self, path: str, parameters: Collection[Any]) -> Account:
        """The account of a layer with these of its own, opened if there is none."""
        account = self._accounts.get(path)
        if account is None:
            with self.lock:
                account = Account(path, parameters=bool(parameters))
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

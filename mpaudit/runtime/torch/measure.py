"""Numbers of tensors: largest magnitude, infinities, NaNs; a GPU need not wait for them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.utils._python_dispatch import _disable_current_modes

from mpaudit.runtime.measured import Values
from mpaudit.runtime.octaves import BINS
from mpaudit.runtime.torch.octaves import counts, counts_on_cpu, sample

STAND_INS = (FakeTensor, FunctionalTensor)  # what a compiler calls modules with
ROWS = 4096  # measurements kept on the device before they are sent to the host
COUNTED = 256  # histograms kept there


def measurable(tensor: torch.Tensor) -> bool:
    """Whether numbers can be read: dense, real floating values, no stand-in of a tracer."""
    return (
        tensor.is_floating_point()
        and tensor.layout is torch.strided
        and (tensor.is_cpu or tensor.is_cuda)
        and tensor.numel() > 0
        and (type(tensor) is torch.Tensor or not isinstance(tensor, STAND_INS))
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


class Numbers:
    """Measures tensors and hands out what was found: at once on the CPU, at a flush on a GPU."""

    def __init__(self) -> None:
        self._rings: dict[tuple[torch.device, bool], _Ring] = {}
        self._norms: list[_Norms] = []

    @staticmethod
    def at_once(tensor: torch.Tensor) -> bool:
        """Whether the numbers of a tensor are there when `measure` returns."""
        return bool(tensor.is_cpu)

    @staticmethod
    def now(tensor: torch.Tensor) -> Values:
        """The numbers of a tensor that are there at once."""
        return _on_cpu(getattr(tensor, "_local_tensor", tensor))

    def measure(self, tensor: torch.Tensor, receive: Callable[[Values], None]) -> None:
        """Measure `tensor`, which must be `measurable`; `receive` gets the values, in order."""
        tensor = getattr(tensor, "_local_tensor", tensor)
        if tensor.is_cpu:
            receive(_on_cpu(tensor))
        elif not torch.cuda.is_current_stream_capturing():
            elements = tensor.numel()
            with _aside(), _unwatched():
                row = self._ring(tensor.device).row(lambda read: receive(_values(elements, read)))
                _on_device(tensor, row)

    def largest(
        self, tensors: Sequence[torch.Tensor], receive: Callable[[list[Values]], None]
    ) -> None:
        """Measure tensors, which must be `measurable`, together: whether there are inf and NaN (a
        NaN hides an inf), not how many. On a GPU one operation does it for all of a dtype."""
        tensors = [getattr(each, "_local_tensor", each) for each in tensors]
        elements = [each.numel() for each in tensors]
        if all(each.device.type == "cpu" for each in tensors):
            return receive(list(map(_of_amax, elements, map(_amax_on_cpu, tensors))))
        while self._norms and self._norms[0].query():
            self._norms.pop(0).deliver()
        if not torch.cuda.is_current_stream_capturing():
            with _aside(), _unwatched():
                self._norms.append(_Norms(tensors, receive))
        return None

    def later(self, values: torch.Tensor, receive: Callable[[list[float]], None]) -> None:
        """Hand the (up to four) `values`, which are on a GPU, to `receive` at a flush."""
        with _aside(), _unwatched():
            row = self._ring(values.device).row(receive)
            row[: len(values)].copy_(values)

    def count(self, tensor: torch.Tensor, receive: Callable[[list[float]], None]) -> None:
        """Count a sample of `tensor`, which must be `measurable`, by power of two."""
        with torch.no_grad(), _unwatched():
            taken = sample(getattr(tensor, "_local_tensor", tensor))
            if tensor.device.type == "cpu":
                receive(counts_on_cpu(taken))
            elif not torch.cuda.is_current_stream_capturing():
                self._ring(tensor.device, counts=True).row(receive).copy_(counts(taken))

    def drain(self) -> None:
        """Hand out everything measured so far. Waits for the GPU."""
        if (self._rings or self._norms) and not torch.cuda.is_current_stream_capturing():
            with _unwatched():
                while self._norms:
                    self._norms.pop(0).deliver()
                for ring in self._rings.values():
                    ring.drain()

    def _ring(self, device: torch.device, *, counts: bool = False) -> _Ring:
        if (device, counts) not in self._rings:
            size, dtype = ((COUNTED, BINS), torch.int32) if counts else ((ROWS, 4), torch.float64)
            self._rings[device, counts] = _Ring(torch.zeros(size, dtype=dtype, device=device))
        return self._rings[device, counts]


class _Norms:
    """The largest magnitudes of many tensors, on their way to the host."""

    def __init__(
        self, tensors: Sequence[torch.Tensor], receive: Callable[[list[Values]], None]
    ) -> None:
        self._elements = [each.numel() for each in tensors]
        self._receive = receive
        self._sent: list[tuple[list[int], torch.Tensor, Any]] = []
        kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for place, tensor in enumerate(tensors):
            kinds.setdefault((tensor.device, tensor.dtype), []).append(place)
        for (device, _), places in kinds.items():
            norms = torch._foreach_norm([tensors[place] for place in places], math.inf)
            self._send(places, torch.stack(norms), device)

    def _send(self, places: list[int], norms: torch.Tensor, device: torch.device) -> None:
        if device.type == "cpu":
            return self._sent.append((places, norms, None))
        host = torch.empty(norms.shape, dtype=norms.dtype, pin_memory=True)
        with torch.cuda.device(device):
            host.copy_(norms, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        return self._sent.append((places, host, arrived))

    def query(self) -> bool:
        """Whether all of them have arrived."""
        return all(arrived is None or arrived.query() for _, _, arrived in self._sent)

    def deliver(self) -> None:
        """Hand them out; waits for what has not arrived."""
        found = [Values(0, None, 0, 0)] * len(self._elements)
        for places, host, arrived in self._sent:
            if arrived is not None:
                arrived.synchronize()
            for place, amax in zip(places, host.tolist(), strict=True):
                found[place] = _of_amax(self._elements[place], amax)
        self._receive(found)


class _Ring:
    """Rows of numbers on one device."""

    def __init__(self, rows: torch.Tensor) -> None:
        self._rows = rows
        self._receivers: list[Callable[[list[float]], None]] = []
        self._sent: list[tuple[torch.Tensor, Any, list[Callable[[list[float]], None]]]] = []

    def row(self, receive: Callable[[list[float]], None]) -> torch.Tensor:
        """A fresh row of zeros to write to on the device."""
        if len(self._receivers) == len(self._rows):
            self._send()
        self._receivers.append(receive)
        return self._rows[len(self._receivers) - 1]

    def _send(self) -> None:
        host = torch.empty(self._rows.shape, dtype=self._rows.dtype, pin_memory=True)
        host.copy_(self._rows, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        self._sent.append((host, arrived, self._receivers))
        self._receivers = []
        self._rows = torch.zeros_like(self._rows)
        while len(self._sent) > 1 and self._sent[0][1].query():
            self._deliver(self._sent.pop(0))

    def drain(self) -> None:
        torch.cuda.synchronize(self._rows.device)
        if self._receivers:
            self._send()
        while self._sent:
            self._sent[0][1].synchronize()
            self._deliver(self._sent.pop(0))

    @staticmethod
    def _deliver(
        sent: tuple[torch.Tensor, Any, list[Callable[[list[float]], None]]],
    ) -> None:
        for values, receive in zip(sent[0].tolist(), sent[2], strict=False):
            receive(values)


_aside = torch._C._AutoDispatchBelowAutograd
"""Keeps what is measured out of the graph, reverse and forward: cheaper than torch.no_grad()."""


def _unwatched() -> AbstractContextManager[Any]:
    """Keeps what is measured out of the sight of the user's own dispatch modes."""
    watching = torch._C._len_torch_dispatch_stack() > 0
    return _disable_current_modes() if watching else nullcontext()


class _Scratch(threading.local):
    """Two numbers of each dtype that an operation of this thread may write to."""

    def __init__(self) -> None:
        self._made: dict[torch.dtype, tuple[torch.Tensor, tuple[torch.Tensor, ...]]] = {}

    def of(self, dtype: torch.dtype) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Both in one tensor, and each in one."""
        if dtype not in self._made:
            both = torch.empty(2, dtype=dtype)
            self._made[dtype] = both, both.unbind()
        return self._made[dtype]


_scratch = _Scratch()


def _range_on_cpu(tensor: torch.Tensor) -> tuple[float, float]:
    """The least and the largest number, in one pass; both are NaN where one is."""
    both, each = _scratch.of(tensor.dtype)
    with _aside():
        lies = tensor if tensor.is_contiguous() else _as_it_lies(tensor)
        if torch._C._len_torch_dispatch_stack():
            with _unwatched():
                torch.aminmax(lies, out=each)
        else:
            torch.aminmax(lies, out=each)
    low, high = both.tolist()
    return low, high


def _amax_on_cpu(tensor: torch.Tensor) -> float:
    """The largest magnitude; inf and NaN where there are such."""
    low, high = _range_on_cpu(tensor)
    return max(-low, high)


def _as_it_lies(tensor: torch.Tensor) -> torch.Tensor:
    """The numbers of a tensor in the order of memory, those that it repeats once: torch would copy
    what is not contiguous before it compares."""
    lies = sorted(
        ((step, size) for size, step in zip(tensor.shape, tensor.stride(), strict=True) if step),
        reverse=True,
    )
    return tensor.as_strided([size for _, size in lies], [step for step, _ in lies])


def _of_amax(elements: int, amax: float) -> Values:
    """What is known from the largest magnitude alone."""
    if math.isfinite(amax):
        return Values(elements, amax, 0, 0)
    return Values(elements, None, int(math.isinf(amax)), int(math.isnan(amax)))


def _on_cpu(tensor: torch.Tensor) -> Values:
    """In one pass over the tensor, and in more only where something is not finite."""
    low, high = _range_on_cpu(tensor)
    if math.isfinite(low) and math.isfinite(high):
        return Values(tensor.numel(), max(-low, high), 0, 0, top=high)
    row = torch.zeros(4, dtype=torch.float64)
    with _aside(), _unwatched():
        _on_device(tensor, row)
    return _values(tensor.numel(), row.tolist())


def _values(elements: int, row: list[float]) -> Values:
    """From a row: largest finite magnitude, counts of +inf, NaN and -inf."""
    amax, plus, nan, minus = row
    anything = plus + nan + minus < elements
    only_minus = minus > 0 and not plus and not nan
    return Values(elements, amax if anything else None, int(plus + minus), int(nan), only_minus)


def _on_device(tensor: torch.Tensor, row: torch.Tensor) -> None:
    """The same in a few kernels, without a word to the host."""
    row[0] = _finite_amax(tensor)
    row[1] = (tensor == math.inf).count_nonzero()
    row[2] = torch.isnan(tensor).count_nonzero()
    row[3] = (tensor == -math.inf).count_nonzero()


def _finite_amax(tensor: torch.Tensor) -> torch.Tensor:
    magnitude = tensor.abs()
    return torch.where(magnitude < math.inf, magnitude, torch.zeros_like(magnitude)).amax()

"""Numbers of tensors: largest magnitude, infinities, NaNs; a GPU need not wait for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from mpaudit.runtime.measured import Values, of_amax
from mpaudit.runtime.octaves import BINS
from mpaudit.runtime.torch.aside import aside, unwatched
from mpaudit.runtime.torch.norms import Norms
from mpaudit.runtime.torch.octaves import counts, counts_on_cpu, sample
from mpaudit.runtime.torch.on_cpu import amax_on_cpu, on_cpu
from mpaudit.runtime.torch.on_cuda import OnCuda
from mpaudit.runtime.torch.ring import Ring

STAND_INS = (FakeTensor, FunctionalTensor)  # what a compiler calls modules with
WIDE = frozenset([torch.float32, torch.float64])
MEASURED = WIDE | {torch.float16, torch.bfloat16}
_Tensor, _strided = torch.Tensor, torch.strided
_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
ROWS = 4096  # measurements kept on the device before they are sent to the host
COUNTED = 256  # histograms kept there


def measurable(tensor: torch.Tensor) -> bool:
    """Whether numbers can be read: dense, real floating values, no stand-in of a tracer.

    Of 8 bits they are not: torch can hardly do more than multiply them.
    """
    return (
        tensor.dtype in MEASURED
        and tensor.layout is _strided
        and (tensor.is_cpu or tensor.is_cuda)
        and tensor.numel() > 0
        and (type(tensor) is _Tensor or not isinstance(tensor, STAND_INS))
        and not _is_wrapped(tensor)
    )


class Numbers:
    """Measures tensors and hands out what was found: at once on the CPU, at a flush on a GPU."""

    def __init__(self, failed: Callable[[str, Exception], None]) -> None:
        self._on_cuda = OnCuda(failed)
        self._rings: dict[tuple[torch.device, bool], Ring] = {}
        self._norms: list[Norms] = []

    @staticmethod
    def at_once(tensor: torch.Tensor) -> bool:
        """Whether the numbers of a tensor are there when `measure` returns."""
        return bool(tensor.is_cpu)

    @staticmethod
    def now(tensor: torch.Tensor) -> Values:
        """The numbers of a tensor that are there at once."""
        return on_cpu(getattr(tensor, "_local_tensor", tensor))

    def measure(self, tensor: torch.Tensor, receive: Callable[[Values], None]) -> None:
        """Measure `tensor`, which must be `measurable`; `receive` gets the values, in order."""
        tensor = getattr(tensor, "_local_tensor", tensor)
        if tensor.is_cpu:
            receive(on_cpu(tensor))
        elif not torch.cuda.is_current_stream_capturing():
            with aside(), unwatched():
                self._on_cuda.measure(tensor, self._ring(tensor.device), receive)

    def largest(
        self, tensors: Sequence[torch.Tensor], receive: Callable[[list[Values]], None]
    ) -> None:
        """Measure tensors, which must be `measurable`, together: whether there are inf and NaN (a
        NaN hides an inf), not how many. On a GPU one operation does it for all of a dtype."""
        tensors = [getattr(each, "_local_tensor", each) for each in tensors]
        elements = [each.numel() for each in tensors]
        if all(each.device.type == "cpu" for each in tensors):
            return receive(list(map(of_amax, elements, map(amax_on_cpu, tensors))))
        while self._norms and self._norms[0].query():
            self._norms.pop(0).deliver()
        if not torch.cuda.is_current_stream_capturing():
            with aside(), unwatched():
                self._norms.append(Norms(tensors, receive))
        return None

    def later(self, values: torch.Tensor, receive: Callable[[list[float]], None]) -> None:
        """Hand the (up to four) `values`, which are on a GPU, to `receive` at a flush."""
        with aside(), unwatched():
            row = self._ring(values.device).row(receive)
            row[: len(values)].copy_(values)

    def count(self, tensor: torch.Tensor, receive: Callable[[list[float]], None]) -> None:
        """Count a sample of `tensor`, which must be `measurable`, by power of two."""
        with torch.no_grad(), unwatched():
            taken = sample(getattr(tensor, "_local_tensor", tensor))
            if tensor.device.type == "cpu":
                receive(counts_on_cpu(taken))
            elif not torch.cuda.is_current_stream_capturing():
                self._ring(tensor.device, counts=True).row(receive).copy_(counts(taken))

    def drain(self) -> None:
        """Hand out everything measured so far. Waits for the GPU."""
        if (self._rings or self._norms) and not torch.cuda.is_current_stream_capturing():
            with unwatched():
                while self._norms:
                    self._norms.pop(0).deliver()
                for ring in self._rings.values():
                    ring.drain()

    def _ring(self, device: torch.device, *, counts: bool = False) -> Ring:
        if (device, counts) not in self._rings:
            size, dtype = ((COUNTED, BINS), torch.int32) if counts else ((ROWS, 4), torch.float64)
            self._rings[device, counts] = Ring(torch.zeros(size, dtype=dtype, device=device))
        return self._rings[device, counts]

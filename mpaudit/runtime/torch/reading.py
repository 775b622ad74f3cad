"""What was read of tensors: each is read once, and a ReLU's output is known from its input."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

from mpaudit.runtime.measured import Measured, Values
from mpaudit.runtime.torch.known import Known
from mpaudit.runtime.torch.measure import measurable
from mpaudit.runtime.torch.regions import dtype_name
from mpaudit.runtime.torch.watch import Watch

Reading = tuple["int | None", Measured]
"""The version of a tensor, None of one that has none, and the numbers it had then."""


class _Thread(threading.local):
    def __init__(self) -> None:
        self.readings = Known()  # tensor -> Reading


class Readings:
    """Numbers of the tensors that live, as one thread last looked at them."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._thread = _Thread()

    def known(self, tensor: torch.Tensor) -> Reading | None:
        """What was read of a tensor last."""
        found: Reading | None = self._thread.readings.get(tensor)
        return found

    def before(self, tensor: torch.Tensor) -> Measured | None:
        """The numbers of a tensor as it was when it was last looked at."""
        known = self.known(tensor)
        return None if known is None else known[1]

    def now(self, tensor: torch.Tensor) -> Measured | None:
        """The numbers of a tensor as it is; None if it has none that can be read."""
        known = self.known(tensor)
        if known is not None and known[0] == _version(tensor):
            return known[1]
        return self._read(tensor, None) if measurable(tensor) else None

    def of_output(
        self, module: Any, given: Sequence[Any], tensor: torch.Tensor, known: Reading | None
    ) -> Measured:
        """The numbers of a measurable `tensor` that a layer made of what it was `given`."""
        if type(module) is torch.nn.ReLU and given:
            version, read = self.known(given[0]) or (None, None)
            if read is not None and read.values is not None:
                values = rectified(module, given, tensor, version, read.values)
                if values is not None:
                    return self.stand(tensor, values)
        return self._read(tensor, known)

    def stand(self, tensor: torch.Tensor, values: Values) -> Measured:
        """What is known of an output is known when it is the input of others."""
        now = Measured(dtype_name(tensor.dtype), computed=True, made=True)
        now.arrive(values)
        self._thread.readings.set(tensor, (_version(tensor), now))
        return now

    def _read(self, tensor: torch.Tensor, known: Reading | None) -> Measured:
        version = _version(tensor)
        if known is not None and known[0] == version:
            return known[1]
        measured = Measured(dtype_name(tensor.dtype), computed=tensor.grad_fn is not None)
        self._thread.readings.set(tensor, (version, measured))
        self._watch.numbers.measure(tensor, measured.arrive)
        return measured


def _version(tensor: torch.Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def rectified(
    module: Any, given: Sequence[Any], tensor: torch.Tensor, version: int | None, read: Values
) -> Values | None:
    """The numbers of `tensor`, which `module` made of the only tensor that it was `given` and of which
    `read` was known as of `version`; None where it may be something else, or is not known from that.

    The graph says what was computed: that it was no other function, whoever may have put one in its place.
    """
    node = tensor.grad_fn
    if read.top is None or type(module) is not torch.nn.ReLU or len(given) != 1 or node is None:
        return None
    before = given[0]
    if node.name() != "ReluBackward0" or version is None or before.dtype is not tensor.dtype:
        return None
    if before is tensor:
        one_change = module.inplace and tensor._version == version + 1
        return _of(read) if one_change else None
    same = before._version == version and before.grad_fn is not None
    return _of(read) if same and node.next_functions[0][0] is before.grad_fn else None


def _of(read: Values) -> Values:
    top = max(0.0, read.top or 0.0)
    return Values(read.elements, top, 0, 0, top=top)

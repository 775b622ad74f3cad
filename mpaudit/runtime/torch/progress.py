"""How a training goes: its losses, and how long a step takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from functools import partial

import torch

from mpaudit.finding import Span
from mpaudit.runtime.progress import Losses
from mpaudit.runtime.torch.known import Known
from mpaudit.runtime.torch.measure import measurable
from mpaudit.runtime.torch.regions import dtype_name
from mpaudit.runtime.torch.watch import Watch


class Progress:
    """Notes the facts `losses` and `seconds_per_step`, of the first place that calls backward.

    What is gone back from there until the gradients are used, or dropped, is one loss in parts: where
    gradients are accumulated, whoever does it divides the loss of each micro-batch by their number, and
    the sum is the loss that people see.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._unscaled = Known()  # a scaled loss -> the loss
        self._place: Span | None = None
        self._losses = Losses(watch.tracer.fact("applied"))
        self._began: tuple[int, float] | None = None
        self._now = (0, 0.0)
        self._begun = False  # what is gone back from next is a part of the last loss
        self._told = False  # somebody tells of the ends of steps: there is an optimizer
        watch.tracer.draining.append(self._note)

    def scaled(self, loss: torch.Tensor, result: torch.Tensor) -> None:
        """A scaler multiplied a loss."""
        if result is not loss:
            self._unscaled.set(result, loss)  # whose graph is a part of that of the result

    def backward(self, losses: Iterable[torch.Tensor], at: Span) -> None:
        """A backward pass is about to begin at these losses."""
        self._place = self._place or at
        counted = at is self._place or at == self._place
        if counted:
            self._now = self._watch.tracer.step(), time.monotonic()
            self._began = self._began or self._now
        for loss in losses:
            scaled = (real := self._unscaled.get(loss)) is not None
            real = real if scaled else loss
            if real.numel() != 1 or not measurable(real):
                continue
            value = number(real) if real.is_cpu else None
            if value is not None and not math.isfinite(value):
                self._check(loss, real, value, at, scaled)
            if not counted:
                continue
            add = self._losses.join if self._begun else self._losses.add
            self._begun = self._told
            if value is not None:
                add(value)
            else:
                self._watch.numbers.later(real.detach().reshape(1), partial(_first, add))

    def optimized(self) -> None:
        """There is an optimizer."""
        self._told = True

    def over(self) -> None:
        """Gradients were used, or dropped: what comes next is another loss."""
        self._begun = False

    def _check(
        self, loss: torch.Tensor, real: torch.Tensor, value: float, at: Span, scaled: bool
    ) -> None:
        """Tell of a loss that is not finite, if it was not before it was scaled.

        One that was multiplied last may have been scaled by hand: of that nothing is known. Nor of one
        that is made of scaled gradients, as a penalty is: where those overflow, a lower scale helps.
        """
        if self._watch.thread.derived:
            return
        if scaled or (loss.grad_fn is not None and loss.grad_fn.name() != "MulBackward0"):
            self._watch.lost(at, value, dtype_name(real.dtype), scaled)

    def _note(self) -> None:
        if (fact := self._losses.fact) is not None:
            self._watch.tracer.note("losses", fact)
        if self._began is not None and self._now[0] > self._began[0]:
            steps, seconds = (now - then for now, then in zip(self._now, self._began, strict=True))
            self._watch.tracer.note("seconds_per_step", round(seconds / steps, 6))


def _first(add: Callable[[float], None], row: list[float]) -> None:
    add(row[0])


def number(tensor: torch.Tensor) -> float:
    """The one number in a tensor on the CPU, as float() has it but without an operation."""
    value = tensor.tolist()
    while type(value) is list:
        value = value[0]
    return float(value)

"""Blocks of the probe's own in the user's run: they may fail, are timed, and are seen by nobody."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

import torch

from mpaudit.runtime.tracer import Tracer


class _Clock:
    """Times what the probe does in one thread; a block within another one is a part of it."""

    __slots__ = ("began", "depth", "hidden")

    def __init__(self) -> None:
        self.depth = 0
        self.began = 0.0
        self.hidden: Any = None  # what keeps the block from the user's classes and modes


class _Thread(threading.local):
    """Whatever is asked of such an object is looked up anew: so it is asked for one thing."""

    def __init__(self) -> None:
        self.clock = _Clock()


_thread = _Thread()
# What comes behind seconds of other work is slow, as nothing of it is in the processor's caches: there it
# counts how many modules and objects are on the way to a function.
_seconds = time.perf_counter
_modes = torch._C._len_torch_function_stack


class Guard:
    """A block whose failure is the probe's own: recorded, and never raised into the user's run.

    It holds nothing of a block that is under way: one does for all threads, and within itself.
    """

    __slots__ = ("_around", "_tracer", "_where")

    def __init__(self, tracer: Tracer, where: str, around: float = 0.0) -> None:
        self._tracer = tracer
        self._where = where
        self._around = around

    def __enter__(self) -> None:
        clock = _thread.clock
        if not clock.depth:
            clock.began = _seconds()
        clock.depth += 1
        if _modes():
            _hide()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        clock = _thread.clock
        clock.depth -= 1
        if not clock.depth:
            if clock.hidden is not None:
                hidden, clock.hidden = clock.hidden, None
                hidden.__exit__(None, None, None)
            self._tracer.spent += _seconds() - clock.began + self._around
        if error is None or not isinstance(error, Exception):
            return False
        self._tracer.failed(self._where, error)
        return True


def unseen_by(kind: type) -> None:
    """What the block that is under way does to tensors goes by `kind`, which may override functions."""
    if kind.__torch_function__ is not torch._C._disabled_torch_function_impl:  # type: ignore[attr-defined]
        _hide()


def _hide() -> None:
    clock = _thread.clock
    if clock.depth and clock.hidden is None:
        hidden = torch._C.DisableTorchFunction()
        hidden.__enter__()
        clock.hidden = hidden


_AROUND = 30
"""What is around a guard takes so many times as long as an empty one, at most: found with steps of
small models with and without hooks, in which code and data have left the processor's caches."""


def around(tracer: Tracer) -> float:
    """Seconds that it costs, at most, to come to a guard at all."""
    began = time.perf_counter()
    for _ in range(100):
        with Guard(tracer, ""):
            pass
    return _AROUND * (time.perf_counter() - began) / 100

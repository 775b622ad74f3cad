"""Wrapping methods of Keras and TensorFlow so that it can be undone and never hurts the run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import wraps
from inspect import signature
from typing import Any

from mpaudit.runtime.tracer import Tracer

Call = Callable[..., Any]
_INHERITED = object()


class _Thread(threading.local):
    inside = False  # a part of the probe, which contains others


class Patches:
    """The wrappers of one probe. After `restore`, or in a forked child, they only pass calls on.

    A wrapper keeps name, module and signature of what it wraps: autograph decides by the module
    whether it rewrites a function, and leaves those of Keras and TensorFlow alone. In
    TensorFlow 2.16 it does not know Keras 2: what is around a call is marked as if autograph had made it.
    While `compiling` says so, wrappers only pass calls on: torch's compiler then takes what they wrap.
    All that the probe does is done `within` a context.
    """

    def __init__(
        self,
        tracer: Tracer,
        compiling: Callable[[], bool] | None = None,
        within: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.tracer = tracer
        self._compiling = compiling
        self._within = within
        self._active = True
        self._thread = _Thread()
        self._undo: list[tuple[object, str, object, object]] = []

    @property
    def active(self) -> bool:
        """Whether the run is still watched."""
        return self._active and self.tracer.alive

    @property
    def busy(self) -> bool:
        """Whether this thread is in the probe's own code."""
        return self._thread.inside

    def wrap(self, owner: object, name: str, around: Callable[[Call], Call]) -> None:
        """Replace `owner.name` by what `around` makes of it; `owner` is a class or a module."""
        before = vars(owner).get(name, _INHERITED)
        original: Any = getattr(owner, name)
        watched, compiling = around(original), self._compiling
        watched.autograph_info__ = {}  # type: ignore[attr-defined]

        @wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if (compiling is not None and compiling()) or not self.active:
                return original(*args, **kwargs)
            return watched(*args, **kwargs)

        with suppress(TypeError, ValueError):  # Keras asks without following __wrapped__
            wrapper.__signature__ = signature(original)  # type: ignore[attr-defined]
        after = staticmethod(wrapper) if isinstance(before, staticmethod) else wrapper
        setattr(owner, name, after)
        self._undo.append((owner, name, before, after))

    @contextmanager
    def guarded(self, where: str) -> Iterator[None]:
        """What goes wrong inside is a fault of the probe: recorded, not raised; its time counts."""
        began = None if self._thread.inside else time.perf_counter()
        self._thread.inside = True
        try:
            with ExitStack() as stack:
                try:
                    stack.enter_context(self._within())
                except Exception as error:
                    self.tracer.failed("the probe", error)
                yield
        except Exception as error:
            self.tracer.failed(where, error)
        finally:
            if began is not None:
                self._thread.inside = False
                self.tracer.spent += time.perf_counter() - began

    def restore(self) -> None:
        """Put everything back, except what somebody else has wrapped since."""
        self._active = False
        for owner, name, before, after in reversed(self._undo):
            if vars(owner).get(name) is not after:
                continue
            if before is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
        self._undo.clear()

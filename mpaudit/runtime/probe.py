"""The probes of the frameworks, installed once the script has imported its framework."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from importlib import import_module

from mpaudit.errors import MpauditError
from mpaudit.runtime.advice import Advice
from mpaudit.runtime.arrival import Arrival
from mpaudit.runtime.rehearsal import Plan
from mpaudit.runtime.tracer import Tracer


class Probes:
    """All probes of a run: a context manager, inside which they watch for `tracer`.

    `device` is where cuda calls go ("auto", "cuda", "cpu"; None: where the script sends them), `say`
    is told what the user should know at once, `rehearsal` makes this one of the runs that are
    compared, `remedy` is put into effect. A probe that fails is reported, never raised; MpauditError
    says that what was asked for cannot be had.
    """

    def __init__(
        self,
        tracer: Tracer,
        device: str | None,
        say: Callable[[str], None],
        rehearsal: Plan | None = None,
        remedy: Advice | None = None,
    ) -> None:
        self._tracer = tracer
        self._device = device
        self._say = say
        self._rehearsal = rehearsal
        self._remedy = remedy
        self._late = "torch" in sys.modules
        self._installed: list[Callable[[], None]] = []
        self._awaited = {"torch": self._torch, "keras": self._keras, "tf_keras": self._keras2}
        self._arrival = Arrival({})

    def on_arrival(self, module: str, install: Callable[[], Callable[[], None]]) -> None:
        """Install something else, too, once `module` is there; what `install` gives takes it away."""
        self._awaited[module] = lambda: self._installed.append(install())

    def __enter__(self) -> None:
        self._arrival = Arrival(self._awaited)
        try:
            self._arrival.install()
        except BaseException:  # the framework was there before, and is not what was asked for
            self.remove()
            raise

    def __exit__(self, *_: object) -> None:
        self._arrival.remove()
        try:
            self._tracer.flush()
        except sqlite3.Error as problem:
            self._tracer.failed("writing the trace", problem)
        self.remove()

    def remove(self) -> None:
        """Take every hook away again, without a word to the tracer about what it held back."""
        self._arrival.remove()
        while self._installed:
            try:
                self._installed.pop()()
            except Exception as problem:
                self._tracer.failed("uninstalling a probe", problem)

    def _torch(self) -> None:
        options = (self._device, self._say, self._rehearsal, self._remedy, self._late)
        self._install("torch", "mpaudit.runtime.torch.probe", *options)

    def _keras(self, package: str = "keras") -> None:
        options = (self._rehearsal, self._remedy, (package,))
        self._install(package, "mpaudit.runtime.keras.probe", *options)

    def _keras2(self) -> None:
        self._keras("tf_keras")

    def _install(self, framework: str, probe: str, *options: object) -> None:
        try:
            self._installed.append(import_module(probe).install(self._tracer, *options))
        except MpauditError:
            raise
        except Exception as problem:
            self._tracer.failed(f"the {framework} probe", problem)
            self._say(f"the {framework} probe failed ({problem}); the run goes on unwatched")

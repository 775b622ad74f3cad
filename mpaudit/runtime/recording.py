"""One process that is recorded, from the first line of its trace to the last."""

from __future__ import annotations

import sqlite3
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mpaudit.protocols import machines
from mpaudit.runtime import failure, offspring, process
from mpaudit.runtime.advice import Advice
from mpaudit.runtime.offspring import Births, Family
from mpaudit.runtime.probe import Probes
from mpaudit.runtime.rehearsal import Plan
from mpaudit.runtime.sampling import EVERYTHING, Sampling
from mpaudit.runtime.tracer import Tracer


class Recording:
    """The trace of this process, and what watches for it.

    `device`, `say` and `rehearsal` are those of `Probes`; `applied` is the fact of that name, whose
    "advice" is put into effect in this process; `sampling` is that of the tracer. Raises MpauditError
    where the trace cannot be written.
    """

    def __init__(
        self,
        family: Family,
        device: str | None,
        say: Callable[[str], None],
        rehearsal: Plan | None = None,
        applied: Mapping[str, Any] | None = None,
        sampling: Sampling = EVERYTHING,
    ) -> None:
        self.family = family
        self._device = device
        self._say = say
        self._rehearsal = rehearsal
        self._sampling = sampling
        self._began = time.time()
        self._first = not family.child and process.world_size() == 1  # no rank reads another's
        self.tracer = self._traced(own=family.child)
        remedy = None
        if applied is not None:
            self.tracer.note("applied", dict(applied))
            remedy = Advice.read(applied["advice"])
        self._probes = Probes(self.tracer, device, say, rehearsal, remedy)

    def _traced(self, *, own: bool) -> Tracer:
        family = self.family
        output = None if family.output is None else Path(family.output)
        path = process.trace_path(family.name, output, folder=Path(family.folder), own=own)
        tracer = Tracer(path, machines(), self._sampling)
        for key, value in {**family.facts, **process.facts(), "run": family.run}.items():
            tracer.note(key, value)
        tracer.flush()
        return tracer

    @contextmanager
    def watching(self, children: bool = False) -> Iterator[None]:
        """Watch in the block; with `children`, also in the processes that are started there."""
        births = Births(self._renew, self._leave, lambda: self.tracer.alive) if children else None
        around = offspring.followed(self.family) if children else nullcontext()
        if births is not None:
            self._probes.on_arrival("multiprocessing.process", births.install)
        with around, self._probes:
            yield

    def _renew(self) -> Callable[[int], None]:
        """Begin a trace of its own in a forked child; what comes back ends it."""
        self._leave()
        self.tracer = self._traced(own=True)
        self._probes = Probes(self.tracer, self._device, self._say)
        self._probes.__enter__()

        def end(code: int) -> None:
            self._probes.__exit__()
            self.close(code)
            self.kept()

        return end

    def _leave(self) -> None:
        if not self._on_tensorflow:  # which answers nobody in a forked child
            self._probes.remove()

    @property
    def _on_tensorflow(self) -> bool:
        fact = self.tracer.fact
        return "tensorflow" in (fact("versions") or {}) and fact("keras_backend") != "torch"

    def close(self, code: int | None, error: BaseException | None = None) -> None:
        """Finish the trace; where that cannot be written any more, say so."""
        last = traceback.format_exception_only(type(error), error)[-1].strip() if error else None
        if error is not None:
            cause = failure.cause_of(error)
            self.tracer.note("explanation", cause.lines or None)
            self.tracer.note("explained_by", cause.rule.name if cause.rule else None)
        try:
            self.tracer.close(code, last)
        except sqlite3.Error as problem:  # a full disk is no reason to lose the script's own end
            self._say(
                f"the trace could not be finished ({problem}); it holds what was written before"
            )

    def discard(self) -> None:
        """Leave no trace of this process."""
        if self.tracer.alive:
            self.close(None)
            for suffix in ("", "-wal", "-shm"):
                path = self.tracer.path
                path.with_name(path.name + suffix).unlink(missing_ok=True)

    def kept(self) -> list[Path]:
        """The traces that are there after the end; a launcher's, in which nothing was seen, is not."""
        others = offspring.traces(self.family, self._began) if self._first else []
        if self.tracer.empty and (others or self.family.child):
            self.discard()
        own = [self.tracer.path] if self.tracer.path.exists() else []
        return [*own, *others]

    def shown(self, path: Path) -> str:
        """A path as a shell knows it that is where the run began."""
        folder = Path(self.family.folder)
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)

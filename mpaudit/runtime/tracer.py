"""The tracer: probes tell it what they see, it rolls that up and keeps the trace current."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

from msgspec.structs import replace

from mpaudit.event import Event
from mpaudit.finding import Moment, Problem, Span
from mpaudit.protocols.protocol import Broken, Protocol, Verdict, settle
from mpaudit.runtime import unmixed
from mpaudit.runtime.claim import Claims
from mpaudit.runtime.histogram import Histogram
from mpaudit.runtime.incidents import Incidents
from mpaudit.runtime.lane import Judges, Lane, Way
from mpaudit.runtime.measuring import FirstSteps
from mpaudit.runtime.record import (
    LOW_PRECISION,
    Attempts,
    Cast,
    Flow,
    Flowed,
    Incident,
    Layer,
    Optimizer,
    Peaks,
    Row,
    Statistics,
)
from mpaudit.runtime.sampling import EVERYTHING, Sampling
from mpaudit.runtime.tally import Tally
from mpaudit.runtime.trace import Writer

FLUSH_EVERY = 1.0  # seconds; what a kill -9 can lose
SKIPS = 500  # stretches of skipped steps whose culprits are kept


_ident = threading.get_ident


class Tracer:
    """Collects one run. Every probe of the process shares one, from any thread.

    A probe calls `note` (facts), `layer`, `saw` (dtypes), `called`, `measured` (numbers), `cast`,
    `attempted` and `settled` (optimizer steps), `feed` (events for the protocols), `incident`,
    `problem`, and `failed` for its own faults: those are recorded and never reach the user's run.
    Steps are attempts, counted from 0 for each optimizer. In a forked child nothing is written.
    """

    _running: ClassVar[Tracer | None] = None

    @classmethod
    def running(cls) -> Tracer | None:
        """The tracer of this process that is not closed yet."""
        found = cls._running
        return found if found is not None and found.alive and not found._closed else None

    def __init__(
        self, path: Path, machines: Sequence[Protocol] = (), sampling: Sampling = EVERYTHING
    ) -> None:
        self.path = path
        self.sampling = sampling
        self.lock = threading.RLock()
        self.draining: list[Callable[[], None]] = []
        """Called before every flush: a probe hands over what it held back (numbers on a device)."""
        self.judging: list[Callable[[], Iterable[Problem]]] = []
        """Asked for findings about the run as a whole: what a probe cannot tell from one event."""
        self.forgetting: list[Callable[[], None]] = []
        """Called by `forget`: what is kept of layers elsewhere is to be forgotten there."""
        self.spent = 0.0
        """Seconds of the host that probes have taken; a probe adds to it."""
        self._began = time.monotonic()
        self._process = os.getpid()
        self._closed = False
        self._writer = Writer(path)
        self._judges = Judges(list(machines))
        self._home = threading.get_ident()
        self._lane = Lane(self._judges, self._home)
        self._verdicts: dict[Hashable, Verdict] = {}
        self._problems: dict[Hashable, Problem] = {}
        self._facts: dict[str, Any] = {}
        self.claims = Claims(self.note)
        self._seen = False
        self._waiting: dict[Hashable, Row] = {}  # since the last flush
        self._incidents = Incidents()
        self._optimizers: list[Optimizer] = []
        self._steps: list[int] = []
        self._runs: list[list[Attempts]] = []
        self._first_steps = FirstSteps()
        self._skips: list[list[Any]] = []
        self._tally = Tally()
        self._amp: tuple[Span, str] | None = None
        self._dtypes: set[str] = set()
        self._weights: set[str] = set()  # dtypes of the parameters of layers that were called
        self._stale_facts: set[str] = set()
        self.flushed = time.monotonic()
        self.note("complete", False)
        self.note("probe_errors", [])
        self.flush()
        Tracer._running = self

    @property
    def alive(self) -> bool:
        """Whether this process is the one that is traced (False in a forked child)."""
        return os.getpid() == self._process

    @property
    def empty(self) -> bool:
        """Whether nothing was seen that a report could show."""
        return not (self._seen or self._problems or self._verdicts)

    @property
    def dtypes(self) -> frozenset[str]:
        """The plain names of all dtypes that flowed."""
        return frozenset(self._dtypes)

    def note(self, key: str, value: Any) -> None:
        """Record a fact about the run in JSON values: "framework", "versions", "device", ..."""
        with self.lock:
            self._facts[key] = value
            self._stale_facts.add(key)

    def fact(self, key: str) -> Any:
        """A fact that was noted before, None if it was not."""
        return self._facts.get(key)

    def failed(self, where: str, error: BaseException) -> None:
        """Record that a probe failed at `where` (a word or two), once for each text of an error."""
        text = f"{where}: {type(error).__name__}: {error}"
        errors = self._facts["probe_errors"]
        if text not in errors and len(errors) < 50:
            self.note("probe_errors", [*errors, text])

    def layer(
        self, path: str, kind: str, *, filename: str | None = None, row: int | None = None
    ) -> None:
        """Make a layer known; the first call fixes its place in the order and in the source."""
        if path not in self._tally:
            with self.lock:
                self._tally.layer(path, kind, filename, row)
                self._seen = True

    def known(self, path: str) -> Layer:
        """A layer that `layer` made known."""
        return self._tally.known(path)

    def called(self, layer: str, step: int, *, training: bool = True) -> int:
        """Count a forward call of a known layer; returns which call of this step it is, from 0.

        Calls without gradients (`training` False) do not count as calls of the step.
        """
        with self.lock:
            return self._tally.called(layer, step, training=training)

    def counted(self, layer: str, calls: int, per_step: int) -> None:
        """Add calls of a known layer that a probe counted itself, and how many a step has."""
        with self.lock:
            self._tally.counted(layer, calls, per_step)

    def saw(self, layer: str, flow: Flow, dtype: str, count: int = 1) -> None:
        """Count tensors of `dtype` (plain name, "float16") that flowed there."""
        with self.lock:
            self._tally.saw(layer, flow, dtype, count)
            self._dtypes.add(dtype)
            if flow == "parameter":
                self._weights.add(dtype)

    def measured(self, numbers: Statistics) -> None:
        """Add what was measured; it joins the numbers of the same layer, phase and dtype."""
        self._join((Statistics, numbers.layer, numbers.phase, numbers.dtype), numbers)

    def histogram(self, counted: Histogram) -> None:
        """Add numbers that were counted; they join those of the same name and loss scale."""
        name = counted.layer, counted.what, counted.dtype, counted.scale
        self._join((Histogram, *name), counted)

    def peaks(self, course: Peaks) -> None:
        """How a layer's largest outputs went so far."""
        with self.lock:
            self._put((Peaks, course.layer), course)

    def cast(self, cast: Cast) -> None:
        """Add casts that happened in a layer; counts and bytes add up."""
        self._join((Cast, cast.layer, cast.what, cast.source, cast.target), cast)
        self._dtypes.add(cast.target)

    def optimizer(self, kind: str) -> int:
        """The index of an optimizer that is used for the first time; `kind` is its class name."""
        with self.lock:
            index = len(self._optimizers)
            self._optimizers.append(Optimizer(index, kind))
            self._put((Optimizer, index), self._optimizers[index])
            self._steps.append(0)
            self._runs.append([])
            return index

    def step(self, optimizer: int | None = None) -> int:
        """The attempt that is being prepared now (None: of the first optimizer, 0 before it)."""
        try:
            return self._steps[optimizer or 0]
        except IndexError:
            return 0

    def attempted(self, optimizer: int, count: int = 1) -> int:
        """Attempts to step happened: returns the number of the first; later work is of the next one."""
        with self.lock:
            self._steps[optimizer] += count
            return self._steps[optimizer] - count

    def settled(
        self,
        optimizer: int,
        step: int,
        applied: bool | None,
        scale: float | None = None,
        of: int = 1,
    ) -> None:
        """How `of` attempts from one on ended, in order: applied or not, at which loss scale."""
        with self.lock:
            runs, end = self._runs[optimizer], step + of - 1
            last = runs[-1] if runs else None
            if last and (last.applied, last.scale, last.last) == (applied, scale, step - 1):
                runs[-1] = replace(last, last=end)
            else:
                runs.append(Attempts(optimizer, step, end, applied, scale))
            self._put((Attempts, optimizer, runs[-1].first), runs[-1])
        self.flush_if_due()

    def culprits(self, optimizer: int, step: int, layers: Sequence[str]) -> None:
        """The layers because of which a step was skipped; of the first `SKIPS` stretches of them."""
        with self.lock:
            last = self._skips[-1] if self._skips else None
            if last and last[0] == optimizer and last[2] == step - 1 and last[3] == list(layers):
                last[2] = step
            elif len(self._skips) < SKIPS:
                self._skips.append([optimizer, step, step, list(layers)])
            self.note("skips", self._skips)

    def scale(self) -> float | None:
        """The loss scale that was last seen in force, of the first optimizer that has one."""
        return next((runs[-1].scale for runs in self._runs if runs and runs[-1].scale), None)

    def scale_at(self, step: int) -> tuple[bool, float | None]:
        """Whether an attempt of this number is over, and the loss scale that was in force in it."""
        over = [a for runs in self._runs for a in reversed(runs) if a.first <= step <= a.last]
        return bool(over), next((a.scale for a in over if a.scale), None)

    def stepped(self, optimizer: int, at: Span, made_after: int | None = None) -> None:
        """Where the script steps an optimizer, which was made after so many others were stepped."""
        self._first_steps.add(optimizer, at, made_after)

    def asked_for_amp(self, at: Span, how: str) -> None:
        """The script asked for mixed precision at `at`; `how` begins a sentence ("autocast")."""
        if self._amp is None:
            self._amp = (at, how)
            self.note("amp", how)

    def repeats(self, way: Way) -> bool:
        """Whether what happens in this thread is what comes next if all goes on as it went before: then
        no protocol has more to say of it. `way` says what an event of it would be made of."""
        with self.lock:
            judges = self._judges if _ident() == self._home else self._lane.judges
            return judges.repeats(way)

    def feed(
        self, event: Event, moment: Moment, *, threaded: bool = False, way: Way | None = None
    ) -> None:
        """Advance every protocol by an event of the run, or of this thread if it is `threaded`.

        Any event that is made in the same `way` is equal to it.
        """
        with self.lock:
            judges = self._lane.judges if threaded else self._judges
            for verdict in judges.feed(event, way):
                if isinstance(verdict, Broken):
                    problem = replace(verdict.problem, moment=moment)
                    verdict = replace(verdict, problem=problem)
                self._verdicts.setdefault(_identity(verdict), verdict)

    def incident(self, incident: Incident, *, made_in: str | None = None) -> None:
        """Record where numbers went wrong; the same kind at the same layer is one incident.

        `made_in` is the dtype in which the layer itself made them, None if they only came to it.
        """
        with self.lock:
            self._put(*self._incidents.add(incident, made_in))

    def problem(self, problem: Problem) -> None:
        """Record a finding that a probe made itself; the first of each rule and place counts."""
        with self.lock:
            self._problems.setdefault((problem.rule, problem.span), problem)

    def problems(self) -> list[Problem]:
        """The findings so far: of the protocols, of the probes, of the run as a whole."""
        settled = settle(list(self._verdicts.values()))
        found = [each for each in settled if not self._loses_nothing(each)]
        found += self._problems.values()
        seen = len(self._tally) > 0 and not self._facts.get("compiled") and not self.sampling.light
        widened = ((self._facts.get("applied") or {}).get("advice") or {}).get("float32")
        in_float32 = "float32" in self._weights and not (widened or self._dtypes & LOW_PRECISION)
        if self._amp is not None and seen and in_float32:
            found.append(unmixed.problem(len(self._tally), *self._amp))
        for judge in self.judging:
            found += judge()
        found += self._incidents.problems(self._runs, self._tally, self._first_steps.at)
        return found

    def _loses_nothing(self, problem: Problem) -> bool:
        """Whether a scaler is missed where autocast casts nothing, or where nothing is trained."""
        if problem.rule != "missing-grad-scaler":
            return False
        wide = self._weights == {"float64"} and not self._dtypes & LOW_PRECISION
        return wide or self._first_steps.measure(problem, self._steps)

    def forget(self) -> bool:
        """Forget all layers so far, unless something went wrong; returns whether it did."""
        with self.lock:
            if self._incidents or self._problems:
                return False
            self.flush()  # nothing waits
            self._writer.forget()
            for forget in self.forgetting:
                forget()
            self._tally = Tally()
            return True

    def flush_if_due(self) -> None:
        """Flush if that is due; a full disk is recorded, and tried again."""
        if time.monotonic() - self.flushed > FLUSH_EVERY:
            self.flushed = time.monotonic()
            try:
                self.flush()
            except sqlite3.Error as problem:
                self.failed("writing the trace", problem)

    def flush(self) -> None:
        """Bring the file up to date: everything told so far survives the end of the process."""
        if not self.alive or self._closed:
            return
        for drain in self.draining:
            drain()
        self.note("flushed", datetime.now(timezone.utc).isoformat())
        with self.lock:
            for flowed in self._tally.flows():
                self._join((Flowed, flowed.layer, flowed.flow, flowed.dtype), flowed)
            for layer in self._tally.layers():
                self._put((Layer, layer.path), layer)
            self._waiting.update(self._incidents.turned(self._runs))
            with self._writer.whole():
                for key in sorted(self._stale_facts):
                    self._writer.meta(key, self._facts[key])
                rank = self._facts.get("rank") or 0
                waiting = self._waiting.items()
                self._writer.rows(self._incidents.judged(*each, rank) for each in waiting)
                self._writer.problems(self.problems())
            self._stale_facts, self._waiting = set(), {}
            self.flushed = time.monotonic()

    def close(self, exit_code: int | None = None, exception: str | None = None) -> None:
        """The run is over: write what is left and close the file.

        `exception` is the text of what ended the script, if something did ("ValueError: ...").
        """
        if self.alive and not self._closed:
            self.note("exit_code", exit_code)
            self.note("exception", exception)
            self.note("complete", exception is None)
            if self.spent:  # a probe that does not measure itself says nothing
                share = self.spent / max(time.monotonic() - self._began, 1e-9)
                self.note("overhead", {"seconds": round(self.spent, 3), "share": round(share, 4)})
            self.note("ended", datetime.now(timezone.utc).isoformat())
            self.flush()
            self._writer.close()
            self._closed = True

    def _join(self, key: Hashable, row: Any) -> None:
        with self.lock:
            known: Any = self._waiting.get(key)
            self._put(key, row if known is None else known.joined(row))

    def _put(self, key: Hashable, row: Row) -> None:
        self._seen = True
        self._waiting[key] = row


def _identity(verdict: Verdict) -> Hashable:
    """Verdicts that differ only in the moment are the same one."""
    if isinstance(verdict, Broken):
        return (Broken, verdict.problem.rule, verdict.problem.span, verdict.grounded)
    return verdict

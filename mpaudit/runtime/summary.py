"""What a trace says, joined with what the source says: the value every renderer of a run gets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from mpaudit.finding import Finding, Problem
from mpaudit.rule import rule
from mpaudit.runtime.histogram import Histogram, What, total
from mpaudit.runtime.record import (
    LARGEST,
    Attempts,
    Cast,
    Incident,
    Layer,
    Peaks,
    Phase,
    Statistics,
)
from mpaudit.runtime.trace import Reader

TOP = LARGEST["float16"]


class Numbers(Struct, frozen=True):
    """The values of one layer in one direction; `dtypes` are theirs, sorted.

    `largest` are the largest finite magnitudes of each of `dtypes`, `amax` that of all.
    `headroom_bits` is how often that in float16 can double before float16 overflows: where there is
    none in float16, that of all.
    `peaks` are the largest magnitudes over the run, of outputs in float16.
    The flushed shares (0 to 1) are of gradient elements that float16 made zero: of all, and of
    those of parameters. None is not known.
    """

    dtypes: Sequence[str] = ()
    largest: Sequence[float | None] = ()
    inf: int = 0
    nan: int = 0
    first_bad_step: int | None = None
    last_bad_step: int | None = None
    amax: float | None = None
    flushed_share: float | None = None
    flushed_share_weight: float | None = None
    peaks: Peaks | None = None

    @property
    def near(self) -> float | None:
        """The largest finite magnitude that comes near the end of float16, or would."""
        of_each = dict(zip(self.dtypes, self.largest, strict=False))
        return of_each.get("float16", self.amax)

    @property
    def headroom_bits(self) -> float | None:
        """log2 of 65504 / amax; negative for what only a wider dtype holds."""
        near = self.near
        return math.log2(TOP / near) if near else None


class LayerFlow(Struct, frozen=True):
    """One layer: the sorted dtypes that flowed there by record.Flow, its casts and its numbers."""

    layer: Layer
    dtypes: Mapping[str, Sequence[str]]
    casts: Sequence[Cast]
    forward: Numbers
    backward: Numbers
    histograms: Sequence[Histogram] = ()
    update: Numbers = Numbers()
    """Of the gradients of its parameters, where those were measured; counts are of tensors."""

    def counted(self, what: What) -> Histogram | None:
        """All numbers of a kind as they were, whatever their dtype and their loss scale."""
        return total(each for each in self.histograms if each.what == what)

    def unscaled(self, what: What) -> Histogram | None:
        """The same without the loss scale; None if there was none in them."""
        ours = [each for each in self.histograms if each.what == what]
        return total(each.unscaled for each in ours) if any(h.scale != 1 for h in ours) else None


class Steps(Struct, frozen=True):
    """The attempts of one optimizer, equal neighbours in one row.

    `skips` are stretches of skipped ones with the layers in which numbers went wrong, where known.
    """

    index: int
    type: str
    attempts: Sequence[Attempts]
    skips: Sequence[tuple[int, int, Sequence[str]]] = ()

    @property
    def total(self) -> int:
        """How many attempts there were."""
        return max((each.last + 1 for each in self.attempts), default=0)

    @property
    def applied(self) -> int:
        """How many attempts changed the parameters."""
        return sum(each.last - each.first + 1 for each in self.attempts if each.applied)

    @property
    def skipped(self) -> list[int]:
        """The attempts that the scaler skipped."""
        return [step for a in self.attempts if a.applied is False for step in _steps(a)]

    def culprits(self, step: int) -> Sequence[str]:
        """The layers because of which a step was skipped; none if they are not known."""
        return next((layers for first, last, layers in self.skips if first <= step <= last), ())

    @property
    def scales(self) -> list[tuple[int, float]]:
        """The loss scale in force at each attempt that had one."""
        return [(step, a.scale) for a in self.attempts if a.scale is not None for step in _steps(a)]


class RunReport(Struct, frozen=True):
    """A run: facts, layers, steps, where numbers went wrong, and all findings.

    `findings` hold those of the run, `confirmed` where the source shows them too, and those that
    only the source shows. `sources` are texts by filename, as the script ran.
    """

    path: Path
    meta: Mapping[str, Any]
    layers: Sequence[LayerFlow]
    optimizers: Sequence[Steps]
    incidents: Sequence[Incident]
    findings: Sequence[Finding]
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> dict[str, LayerFlow]:
        """The layers by path."""
        return {each.layer.path: each for each in self.layers}

    @property
    def light(self) -> bool:
        """Whether no layer was looked at: what is empty then says nothing."""
        sampling = self.meta.get("sampling")
        return isinstance(sampling, dict) and bool(sampling.get("light"))

    def cast_steps(self, path: str) -> int | None:
        """In how many of the steps whose casts were counted a layer took part; None if in none."""
        some = self.meta.get("cast_steps_of") or {}
        found = some.get(path) or self.meta.get("cast_steps")
        return int(found) if found else None

    @property
    def scaled(self) -> Steps | None:
        """The first optimizer whose loss was scaled."""
        return next((each for each in self.optimizers if each.scales), None)


def summarise(
    reader: Reader, findings: Sequence[Finding] = (), sources: Mapping[str, str] | None = None
) -> RunReport:
    """The report of a trace, with the findings of run and source, joined."""
    dtypes, statistics, casts = reader.dtypes(), reader.statistics(), reader.casts()
    peaks, histograms = reader.peaks(), reader.histograms()
    layers = [
        LayerFlow(
            layer,
            dtypes.get(layer.path, {}),
            [cast for cast in casts if cast.layer == layer.path],
            replace(_numbers(statistics, layer.path, "forward"), peaks=peaks.get(layer.path)),
            _numbers(statistics, layer.path, "backward"),
            histograms.get(layer.path, ()),
            update=_numbers(statistics, layer.path, "update"),
        )
        for layer in reader.layers()
    ]
    attempts, skips = reader.attempts(), reader.meta.get("skips") or []
    return RunReport(
        path=reader.path,
        meta=reader.meta,
        layers=layers,
        optimizers=[
            Steps(
                each.index,
                each.type,
                [a for a in attempts if a.optimizer == each.index],
                [(first, last, found) for o, first, last, found in skips if o == each.index],
            )
            for each in reader.optimizers()
        ],
        incidents=reader.incidents(),
        findings=findings,
        sources=sources or {},
    )


def stamp(problem: Problem) -> Finding:
    """The finding that a problem of a run is: its rule's page adds code and severity."""
    page = rule(problem.rule)
    return Finding(
        code=page.code,
        name=page.name,
        severity=page.severity,
        message=problem.message,
        span=problem.span,
        consequence=problem.consequence,
        related=problem.related,
        moment=problem.moment,
        subjects=problem.subjects,
    )


def join(seen: Iterable[Finding], static: Iterable[Finding]) -> list[Finding]:
    """The findings of a run and of its source: one where both show a rule in the same line."""
    alone = list(static)
    joined: list[Finding] = []
    for finding in seen:
        twin = next((each for each in alone if _same(each, finding)), None)
        if twin is None:
            joined.append(finding)
        else:
            alone.remove(twin)
            joined.append(replace(twin, moment=finding.moment, confirmed=True))
    order = [*joined, *alone]
    return sorted(order, key=lambda f: (f.span.filename, f.span.start, f.code))


def _same(one: Finding, other: Finding) -> bool:
    a, b = one.span, other.span
    return (
        one.code == other.code
        and a.start.row <= b.end.row
        and b.start.row <= a.end.row
        and a.cell == b.cell
        and Path(a.filename).absolute() == Path(b.filename).absolute()
    )


def _numbers(statistics: Iterable[Statistics], layer: str, phase: Phase) -> Numbers:
    rows = [each for each in statistics if (each.layer, each.phase) == (layer, phase)]
    if not rows:
        return Numbers()
    rows.sort(key=lambda each: each.dtype)  # one for each
    total = rows[0]
    for row in rows[1:]:
        total = total.joined(row)
    return Numbers(
        [row.dtype for row in rows],
        [row.amax for row in rows],
        total.inf,
        total.nan,
        total.first_bad_step,
        total.last_bad_step,
        total.amax,
        _share(total.flushed, total.flushed_of),
        _share(total.flushed_weight, total.flushed_weight_of),
    )


def _share(part: int | None, whole: int | None) -> float | None:
    return part / whole if part is not None and whole else None


def _steps(attempts: Attempts) -> range:
    return range(attempts.first, attempts.last + 1)

"""A run as one HTML page that loads nothing and runs nothing: it can be mailed and archived."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from mpaudit.errors import MpauditError
from mpaudit.finding import Finding
from mpaudit.render import chart, outcome
from mpaudit.render.excerpt import visible
from mpaudit.render.html_findings import cards
from mpaudit.render.html_layers import lines, sorted_incidents, tightest
from mpaudit.render.octaves import pictures
from mpaudit.render.run_json import META
from mpaudit.render.run_text import first_bad, overhead, parting, precision, ranks, unfinished
from mpaudit.report import Report, count
from mpaudit.rule import rule
from mpaudit.runtime.advice import Advice, advise
from mpaudit.runtime.advice import outcome as measured
from mpaudit.runtime.record import LOW_PRECISION, Attempts
from mpaudit.runtime.sampling import told
from mpaudit.runtime.summary import TOP, RunReport, Steps

if TYPE_CHECKING:
    from jinja2 import Environment

SMALLEST = -24  # log2 of float16's smallest subnormal: where the bars of the ranges begin
LISTED = 200  # skipped stretches of an optimizer that are listed
CULPRITS = 4  # layers of one that are named
_CODE = re.compile(r"`([^`\n]+)`")
_ALL = 0.995  # a share that two digits would round to all


class Course(Struct, frozen=True):
    """What became of an optimizer's steps; `stretches` are the first of those that were skipped."""

    index: int
    type: str
    total: int
    applied: int
    skipped: int
    stretches: Sequence[Attempts]
    more: int
    strip: Sequence[chart.Stretch]


class Skip(Struct, frozen=True):
    """A stretch of skipped steps: the loss scale in them and after them, the layers behind it.

    `more` counts the layers that are not named.
    """

    index: int
    type: str
    first: int
    last: int
    before: float | None
    after: float | None
    layers: Sequence[str]
    more: int


def location(trace: Path) -> Path:
    """Where the page of a trace goes: beside it; that of a folder of traces, inside."""
    if trace.is_dir():
        return trace / f"mpaudit-html-{trace.resolve().name}.html"
    return trace.with_name(f"mpaudit-html-{trace.stem}.html")


def render(report: RunReport) -> str:
    """The page. Raises MpauditError where jinja2 is not installed."""
    template = _environment().get_template("run.html")
    check = Report(report.findings, report.sources)
    scaled, advice = report.scaled, advise(report)
    table = list(lines(report, scaled=scaled is not None))
    outputs = [set(each.dtypes.get("output", ())) for each in report.layers]
    return template.render(
        report=report,
        meta={**dict.fromkeys((*META, "source_edited")), **report.meta},
        unfinished=unfinished(report.meta),
        script=str(report.meta.get("script") or report.path.name),
        facts=_facts(report),
        cards=cards(check),
        counts=Counter(each.severity.value for each in check.findings),
        confirmed=sum(each.confirmed for each in check.findings),
        cause=_cause(report),
        lines=table,
        anchors={each.flow.layer.path: each.anchor for each in table},
        tightest=tightest(table, scaled=scaled is not None),
        low=None if report.light else sum(bool(LOW_PRECISION & each) for each in outputs),
        incidents=sorted_incidents(report.incidents),
        scaled=scaled,
        scales=_ends(scaled, report.meta),
        timeline=None if scaled is None else chart.timeline(scaled),
        pictures=pictures(report),
        advice=advice,
        changes=[] if advice is None else outcome.changes(advice),
        nothing=outcome.nothing(errors=outcome.errors(report), scaled=scaled is not None),
        applied=_applied(report),
        losses=report.meta.get("losses") or {},
        courses=[_course(each) for each in report.optimizers],
        skips=[skip for each in report.optimizers for skip in _skips(each)],
        strip_width=chart.STRIP,
        top=TOP,
    )


def _applied(report: RunReport) -> dict[str, Any] | None:
    """What was put into effect in this run, of what it is, and the rows of before and after."""
    applied = report.meta.get("applied")
    if applied is None:
        return None
    return {
        "changes": outcome.changes(Advice.read(applied["advice"])),
        "of": applied.get("of"),
        "rows": outcome.rows(applied["before"], measured(report)),
    }


def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as problem:
        message = "HTML reports need the extra: pip install 'mpaudit[report]'"
        raise MpauditError(message) from problem
    environment = Environment(
        loader=PackageLoader("mpaudit.render", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters.update(
        pieces=pieces,
        percent=percent,
        power=chart.power,
        place=_place_of,
        brief=brief,
        bytes=_bytes,
        steps=steps,
    )
    environment.globals["count"] = count
    return environment


def _facts(report: RunReport) -> dict[str, str]:
    meta = report.meta
    facts = {
        "started": _when(meta.get("started")),
        "took": _took(meta.get("started"), meta.get("ended")),
        "versions": ", ".join(f"{k} {v}" for k, v in (meta.get("versions") or {}).items()),
        "device": meta.get("device"),
        "precision": precision(report),
        "asked for": None if meta.get("precision") else meta.get("amp"),
        "ranks": ranks(meta),
        "first bad": first_bad(meta.get("first_bad")),
        "ranks part": parting(meta.get("ranks_part")),
        "sampled": told(meta.get("sampling")),
        "overhead": overhead(meta.get("overhead")),
        "not seen": "; ".join(meta.get("probe_errors") or ()),
    }
    return {name: str(value) for name, value in facts.items() if value}


def _when(moment: str | None) -> str:
    if not moment:
        return ""
    at = datetime.fromisoformat(moment)
    return f"{at:%Y-%m-%d %H:%M:%S} {at.tzname() or ''}".rstrip()


def _took(started: str | None, ended: str | None) -> str:
    if not started or not ended:
        return ""
    seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _cause(report: RunReport) -> Finding | None:
    """The finding of the rule behind the exception that ended the run."""
    error = report.meta.get("exception")
    if not error:
        return None
    if (name := report.meta.get("explained_by")) is not None:
        return next((each for each in report.findings if each.name == name), None)
    quoting = (f for f in report.findings if any(text in error for text in rule(f.name).messages))
    return next(quoting, None)


def _course(steps: Steps) -> Course:
    skipped = [each for each in steps.attempts if each.applied is False]
    return Course(
        index=steps.index,
        type=steps.type,
        total=steps.total,
        applied=steps.applied,
        skipped=sum(each.last - each.first + 1 for each in skipped),
        stretches=skipped[:LISTED],
        more=max(len(skipped) - LISTED, 0),
        strip=chart.strip(steps),
    )


def _skips(steps: Steps) -> Iterator[Skip]:
    """The first skipped stretches of an optimizer, apart where other layers were behind them."""
    scales = dict(steps.scales)
    for stretch in [each for each in steps.attempts if each.applied is False][:LISTED]:
        begun = [first for first, _, _ in steps.skips if stretch.first < first <= stretch.last]
        for first, after in pairwise([stretch.first, *begun, stretch.last + 1]):
            layers = steps.culprits(first)
            yield Skip(
                index=steps.index,
                type=steps.type,
                first=first,
                last=after - 1,
                before=stretch.scale,
                after=scales.get(after),
                layers=layers[:CULPRITS],
                more=max(len(layers) - CULPRITS, 0),
            )


def _ends(scaled: Steps | None, meta: Mapping[str, Any]) -> tuple[float, float] | None:
    """The first and the final loss scale."""
    if scaled is None:
        return None
    scales = [each.scale for each in scaled.attempts if each.scale is not None]
    return scales[0], meta.get("final_scale", scales[-1])


def _place_of(magnitude: float | None) -> float:
    """Where a magnitude is on a bar, in percent: from float16's smallest number to its largest."""
    if not magnitude:
        return 0.0
    share = (math.log2(magnitude) - SMALLEST) / (math.log2(TOP) - SMALLEST)
    return round(100 * min(max(share, 0.0), 1.0), 1)


def pieces(text: str) -> list[tuple[str, bool]]:
    """A message cut at its `backticks`: each piece, and whether it is code."""
    cut = _CODE.split(text)
    return [(piece, number % 2 == 1) for number, piece in enumerate(cut) if piece]


def brief(number: float | None) -> str:
    """A number in at most four digits; a large whole one in full."""
    if number is None:
        return "–"
    if float(number).is_integer() and abs(number) < 1e9:
        return f"{int(number):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{number:.4g}"


def percent(share: float) -> str:
    """A share (0 to 1) in two digits; what is next to nothing as such."""
    if share >= _ALL:
        return "100%" if share >= 1 else ">99%"
    return "0%" if not share else "<0.001%" if share < 1e-5 else f"{100 * share:.2g}%"


def steps(first: int, last: int | None) -> str:
    """A stretch of steps."""
    return f"step {first}" if last in (None, first) else f"steps {first}–{last}"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"

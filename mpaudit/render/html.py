"""A run as one HTML page that loads nothing and runs nothing: it can be mailed and archived."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpaudit.errors import MpauditError
from mpaudit.finding import Finding
from mpaudit.fix import Safety, apply
from mpaudit.render import chart
from mpaudit.render.excerpt import Excerpt, excerpts, visible
from mpaudit.render.run_json import META
from mpaudit.render.run_json import layer as layer_data
from mpaudit.report import Report, count
from mpaudit.rule import rule
from mpaudit.runtime.record import LOW_PRECISION, Attempts, Incident
from mpaudit.runtime.summary import TOP, LayerFlow, Numbers, RunReport, Steps

if TYPE_CHECKING:
    from jinja2 import Environment

SMALLEST = -24  # log2 of float16's smallest subnormal: where the bars of the ranges begin
NEAR, EDGE = 3.0, 1.0  # bits of headroom below which a float16 range is a warning, an error
LISTED = 200  # skipped stretches of an optimizer that are listed
_CODE = re.compile(r"`([^`\n]+)`")
_HOW = {
    Safety.SAFE: "`--fix`",
    Safety.UNSAFE: "`--fix --unsafe-fixes`",
    Safety.SUGGESTION: "by hand",
}


@dataclass(frozen=True, slots=True)
class Repair:
    """The fix of a finding: what it does, how to have it, the diff; `same` as an earlier card."""

    message: str
    how: str
    diff: Sequence[str]
    same: str | None


@dataclass(frozen=True, slots=True)
class Card:
    """A finding and the source it is about."""

    finding: Finding
    anchor: str
    excerpts: Sequence[Excerpt]
    repair: Repair | None


@dataclass(frozen=True, slots=True)
class Line:
    """A layer of the table: `data` is its JSON; `container` says that other layers are in it.

    `risks` say by phase how near its range is to the end of float16, see `risk`; `origins` are the
    phases in which inf or NaN that nothing excuses began here.
    """

    flow: LayerFlow
    data: Mapping[str, Any]
    anchor: str
    container: bool
    risks: Mapping[str, str]
    origins: Container[str]
    trouble: bool


@dataclass(frozen=True, slots=True)
class Course:
    """What became of an optimizer's steps; `stretches` are the first of those that were skipped."""

    index: int
    type: str
    total: int
    applied: int
    skipped: int
    stretches: Sequence[Attempts]
    more: int
    strip: Sequence[chart.Stretch]


def location(trace: Path) -> Path:
    """Where the page of a trace goes: beside it."""
    return trace.with_name(f"mpaudit-html-{trace.stem}.html")


def render(report: RunReport) -> str:
    """The page. Raises MpauditError where jinja2 is not installed."""
    template = _environment().get_template("run.html")
    check = Report(report.findings, report.sources)
    scaled = report.scaled
    lines = list(_lines(report, scaled=scaled is not None))
    return template.render(
        report=report,
        meta={**dict.fromkeys((*META, "source_edited")), **report.meta},
        script=str(report.meta.get("script") or report.path.name),
        facts=_facts(report),
        cards=_cards(check),
        counts=Counter(each.severity.value for each in check.findings),
        confirmed=sum(each.confirmed for each in check.findings),
        cause=_cause(report),
        lines=lines,
        anchors={each.flow.layer.path: each.anchor for each in lines},
        tightest=_tightest(lines, scaled=scaled is not None),
        low=sum(bool(LOW_PRECISION & {*each.dtypes.get("output", ())}) for each in report.layers),
        incidents=_sorted(report.incidents),
        scaled=scaled,
        scales=_ends(scaled, report.meta),
        timeline=None if scaled is None else chart.timeline(scaled),
        courses=[_course(each) for each in report.optimizers],
        strip_width=chart.STRIP,
        top=TOP,
    )


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
        pieces=pieces, place=_place_of, brief=brief, bytes=_bytes, steps=steps
    )
    environment.globals["count"] = count
    return environment


def _facts(report: RunReport) -> dict[str, str]:
    meta = report.meta
    overhead, sampling = meta.get("overhead"), meta.get("sampling")
    if isinstance(overhead, dict):  # 0: the probe measures none
        overhead = (
            overhead["seconds"] and f"{overhead['seconds']:g} s, {overhead['share']:.1%} of the run"
        )
    if isinstance(sampling, dict):
        sampling = ", ".join(f"{key} {each}" for key, each in sampling.items())
    ranks = meta.get("world_size") or 1
    facts = {
        "started": _when(meta.get("started")),
        "took": _took(meta.get("started"), meta.get("ended")),
        "versions": ", ".join(f"{k} {v}" for k, v in (meta.get("versions") or {}).items()),
        "device": meta.get("device"),
        "precision": meta.get("precision") or meta.get("amp"),
        "rank": f"{meta.get('rank')} of {ranks}" if ranks > 1 else "",
        "sampled": "every step" if sampling == "every 1" else sampling,
        "overhead": overhead,
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


def _cards(report: Report) -> list[Card]:
    """The findings; a coupled fix is shown with the first of those it repairs."""
    cards: list[Card] = []
    anchors: set[str] = set()
    shown: dict[object, str] = {}
    for finding in report.findings:
        repair = None
        if fix := finding.fix:
            key = (finding.span.filename, fix)
            same = shown.get(key)
            text = None if same else report.sources.get(finding.span.filename)
            diff = [] if text is None else _diff(text, apply(text, [fix])[0])
            repair = Repair(fix.message, _HOW[fix.safety], diff, same)
            shown.setdefault(key, finding.code)
        anchor = finding.code if finding.code not in anchors else f"finding-{len(cards)}"
        anchors.add(anchor)
        cards.append(Card(finding, anchor, excerpts(finding, report.sources), repair))
    return cards


def _diff(before: str, after: str) -> list[str]:
    rows = difflib.unified_diff(before.splitlines(), after.splitlines(), n=2, lineterm="")
    return list(rows)[2:]  # without the names of the files


def _cause(report: RunReport) -> Finding | None:
    """The finding whose rule quotes the exception that ended the run."""
    error = report.meta.get("exception")
    if not error:
        return None
    quoting = (f for f in report.findings if any(text in error for text in rule(f.name).messages))
    return next(quoting, None)


def _lines(report: RunReport, *, scaled: bool) -> Iterator[Line]:
    paths = [each.layer.path for each in report.layers]
    inner = {path[: match.start()] for path in paths for match in re.finditer(r"[./]", path)}
    urgent, _ = _sorted(report.incidents)
    origins = {(each.layer, _phase(each)) for each in urgent}
    for number, flow in enumerate(report.layers):
        path = flow.layer.path
        risks = {
            "forward": risk(flow.forward),
            "backward": risk(flow.backward, scaled=scaled),
        }
        begun = [phase for phase in risks if (path, phase) in origins]
        yield Line(
            flow,
            layer_data(flow, report),
            f"layer-{number}",
            container=path in inner or (not path and len(paths) > 1),
            risks=risks,
            origins=begun,
            trouble=bool(begun) or not {"near", "edge"}.isdisjoint(risks.values()),
        )


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


def _ends(scaled: Steps | None, meta: Mapping[str, Any]) -> tuple[float, float] | None:
    """The first and the final loss scale."""
    if scaled is None:
        return None
    scales = [each.scale for each in scaled.attempts if each.scale is not None]
    return scales[0], meta.get("final_scale", scales[-1])


def risk(numbers: Numbers, *, scaled: bool = False) -> str:
    """How near a range is to the end of float16: the class of its bar.

    "wide" is held by a wider dtype. `scaled` gradients are always "fine": they reach the end by
    design, for the scaler seeks it.
    """
    bits = numbers.headroom_bits
    if bits is None or "float16" not in numbers.dtypes:
        return "wide"
    if scaled:
        return "fine"
    return "edge" if bits < EDGE else "near" if bits < NEAR else "fine"


def _tightest(lines: Sequence[Line], *, scaled: bool) -> tuple[LayerFlow, str, float] | None:
    """The float16 range with the least room, of those no scaler looks after: layer, phase, bits."""
    rooms = [
        (numbers.headroom_bits, line.container, line.flow, phase)
        for line in lines
        for phase, numbers in (("forward", line.flow.forward), ("backward", line.flow.backward))
        if numbers.headroom_bits is not None and "float16" in numbers.dtypes
        if phase == "forward" or not scaled
    ]
    if not rooms:
        return None
    bits, _, flow, phase = min(rooms, key=lambda each: each[:2])
    return flow, phase, bits


def _phase(incident: Incident) -> str:
    return "backward" if incident.kind.startswith("gradient") else "forward"


def _sorted(incidents: Sequence[Incident]) -> tuple[list[Incident], list[Incident]]:
    """What calls for attention, and what is expected: a scaler's calibration, deliberate -inf."""
    expected = ("benign", "masked")
    return (
        [each for each in incidents if each.judgement not in expected],
        [each for each in incidents if each.judgement in expected],
    )


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


def steps(first: int, last: int | None) -> str:
    """A stretch of steps."""
    return f"step {first}" if last in (None, first) else f"steps {first}–{last}"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"

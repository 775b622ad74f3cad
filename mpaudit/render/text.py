"""The full report: each finding with its source, evidence, consequence and repair."""

from __future__ import annotations

from mpaudit.finding import Finding
from mpaudit.fix import Safety, apply
from mpaudit.render import diff
from mpaudit.render.colour import Paint, painter
from mpaudit.render.concise import headline, place
from mpaudit.render.frame import Mark, draw
from mpaudit.report import Report, text_of

_HOW = {
    Safety.SAFE: "`--fix`",
    Safety.UNSAFE: "`--fix --unsafe-fixes`",
    Safety.SUGGESTION: "by hand",
}


def render(report: Report, *, colour: bool = False) -> str:
    """Every finding in full, then the closing lines."""
    paint = painter(colour)
    blocks = [block(finding, report, paint) for finding in report.findings]
    return "\n".join((*blocks, text_of(report.summary())))


def block(finding: Finding, report: Report, paint: Paint) -> str:
    """One finding, ending in a line feed."""
    marks = [Mark(finding.span, "", finding.severity.value)]
    marks += [Mark(each.span, each.message, "frame") for each in finding.related]
    gutter = max(len(str(mark.span.end.row)) for mark in marks)
    lines = [
        headline(finding, report, paint),
        f"{'':{gutter}}{paint('-->', 'frame')} {place(finding.span)}",
    ]
    groups: dict[tuple[str, int | None], list[Mark]] = {}
    for mark in marks:
        groups.setdefault((mark.span.filename, mark.span.cell), []).append(mark)
    for number, group in enumerate(groups.values()):
        source = report.text(group[0].span)
        if number and source is not None:
            lines.append(f"{'':{gutter}}{paint(':::', 'frame')} {place(group[0].span)}")
        if source is not None:
            lines += draw(group, source, gutter, paint)
        else:
            lines += [_unseen(mark, gutter, paint) for mark in group if mark.label]
    lines += [f"{'':{gutter}} {paint('=', 'frame')} {note}" for note in _notes(finding, paint)]
    lines += [f"{'':{gutter}}     {row}".rstrip() for row in _proposal(finding, report, paint)]
    return "\n".join(lines) + "\n"


def _proposal(finding: Finding, report: Report, paint: Paint) -> list[str]:
    """What a fix that is never applied would change."""
    source = report.sources.get(finding.span.filename)
    if finding.fix is None or finding.fix.safety is not Safety.SUGGESTION or source is None:
        return []
    after, _ = apply(source, [finding.fix])
    return diff.excerpt(source, after, paint)


def _unseen(mark: Mark, gutter: int, paint: Paint) -> str:
    """A mark in a text that is not at hand."""
    where = place(mark.span).rpartition(":")[0]  # without the column
    return f"{'':{gutter}} {paint('=', 'frame')} {where}: {mark.label}"


def _notes(finding: Finding, paint: Paint) -> list[str]:
    notes: list[str] = []
    moment = finding.moment
    if moment is not None:
        parts = [f"step {moment.step}", moment.layer and f"layer {moment.layer}", moment.op]
        seen = ", ".join(part for part in parts if part)
        notes.append(f"{paint('seen in the run:', 'strong')} {seen}")
    if finding.confirmed:
        notes.append(f"{paint('confirmed:', 'strong')} the source and the run both show it")
    if finding.consequence:
        notes.append(f"{paint('consequence:', 'strong')} {finding.consequence}")
    if finding.fix is not None:
        how = _HOW[finding.fix.safety]
        notes.append(f"{paint('fix:', 'good')} {finding.fix.message} ({how})")
    return notes

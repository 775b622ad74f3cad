"""One line per finding, for editors and for `grep`."""

from __future__ import annotations

from mpaudit.finding import Finding, Span
from mpaudit.render.colour import Paint, painter
from mpaudit.report import Report, shown, text_of


def render(report: Report, *, colour: bool = False) -> str:
    """`path:row:column: severity[code] rule-name: message`, then the closing lines."""
    paint = painter(colour)
    rows = [f"{place(each.span)}: {headline(each, report, paint)}" for each in report.findings]
    return text_of((*rows, *report.summary()))


def place(span: Span) -> str:
    """`path:row:column`, with the cell of a notebook between."""
    cell = "" if span.cell is None else f"cell {span.cell}:"
    return f"{shown(span.filename)}:{cell}{span.start.row}:{span.start.column}"


def headline(finding: Finding, report: Report, paint: Paint) -> str:
    """What was found, in one line; `[*]` if `--fix` repairs it."""
    kind = finding.severity.value
    star = f" [{paint('*', 'good')}]" if report.fixable(finding) else ""
    title = paint(f"{kind}[{finding.code}]", kind)
    return f"{title} {finding.name}{star}: {paint(finding.message, 'strong')}"

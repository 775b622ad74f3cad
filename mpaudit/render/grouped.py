"""The findings under the names of their files."""

from __future__ import annotations

from itertools import groupby

from mpaudit.finding import Finding
from mpaudit.render.colour import painter
from mpaudit.render.concise import headline
from mpaudit.report import Report, shown, text_of


def render(report: Report, *, colour: bool = False) -> str:
    """Each file, below it `row:column` and what was found; then the closing lines."""
    paint = painter(colour)
    rows: list[str] = []
    for filename, group in groupby(report.findings, key=lambda each: each.span.filename):
        found = list(group)
        wide = max(len(_place(each)) for each in found)
        rows.append(f"{paint(shown(filename), 'strong')}:")
        rows += [f"  {_place(each):{wide}}  {headline(each, report, paint)}" for each in found]
        rows.append("")
    return text_of((*rows, *report.summary()))


def _place(finding: Finding) -> str:
    cell = "" if finding.span.cell is None else f"cell {finding.span.cell}:"
    return f"{cell}{finding.span.start.row}:{finding.span.start.column}"

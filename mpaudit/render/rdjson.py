"""The findings for reviewdog (rdjson), which comments on pull requests with suggestions."""

from __future__ import annotations

import json
from typing import Any

from mpaudit.finding import Finding, Position, Related, Span
from mpaudit.render.concise import place
from mpaudit.report import Report, line, shown
from mpaudit.rule import URL, Severity, address

_SEVERITIES = {Severity.ERROR: "ERROR", Severity.WARNING: "WARNING", Severity.ADVICE: "INFO"}
_HOME = URL.partition("/rules/")[0]


def render(report: Report) -> str:
    """One object; its columns count bytes of UTF-8, as the format wants it."""
    data = {
        "source": {"name": "mpaudit", "url": _HOME},
        "diagnostics": [_diagnostic(each, report) for each in report.findings],
    }
    return json.dumps(data, indent=2) + "\n"


def _diagnostic(finding: Finding, report: Report) -> dict[str, Any]:
    cell = f"{place(finding.span)}: " if finding.span.cell is not None else ""
    found: dict[str, Any] = {
        "message": f"{cell}{finding.name}: {finding.message}",
        "location": _location(finding.span, report),
        "severity": _SEVERITIES[finding.severity],
        "code": _code(finding),
    }
    if suggestions := _suggestions(finding, report):
        found["suggestions"] = suggestions
    if related := [_related(each, report) for each in finding.related]:
        found["related_locations"] = related
    return found


def _code(finding: Finding) -> dict[str, str]:
    url = address(finding.name)
    return {"value": finding.code, **({"url": url} if url else {})}


def _related(related: Related, report: Report) -> dict[str, Any]:
    return {"message": related.message, "location": _location(related.span, report)}


def _location(span: Span, report: Report) -> dict[str, Any]:
    """The range in the file; what stands in a cell of a notebook has none."""
    if span.cell is not None:
        return {"path": shown(span.filename)}
    text = report.text(span) or ""
    return {"path": shown(span.filename), "range": _range(span.start, span.end, text)}


def _suggestions(finding: Finding, report: Report) -> list[dict[str, Any]]:
    text = report.text(finding.span)
    if finding.fix is None or finding.span.cell is not None or text is None:
        return []
    made = []
    for edit in finding.fix.edits:
        start = report.place(finding.span.filename, edit.start)
        end = report.place(finding.span.filename, edit.end)
        if start is None or end is None:
            return []
        made.append({"range": _range(start[1], end[1], text), "text": edit.content})
    return made


def _range(start: Position, end: Position, text: str) -> dict[str, Any]:
    return {"start": _point(start, text), "end": _point(end, text)}


def _point(at: Position, text: str) -> dict[str, int]:
    before = line(text, at.row)[: at.column - 1]
    beyond = at.column - 1 - len(before)  # a place behind the end of its line
    return {"line": at.row, "column": len(before.encode(errors="replace")) + beyond + 1}

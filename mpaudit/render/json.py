"""The findings as JSON; keys and their meaning are a contract other programs rely on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mpaudit.finding import Finding, Position
from mpaudit.fix import Edit
from mpaudit.report import Report
from mpaudit.rule import address


def render(report: Report) -> str:
    """A list of objects, one per finding; rows and columns count from 1, filenames are absolute."""
    return json.dumps([item(each, report) for each in report.findings], indent=2) + "\n"


def item(finding: Finding, report: Report) -> dict[str, Any]:
    """One finding as plain data."""
    span = finding.span
    return {
        "code": finding.code,
        "name": finding.name,
        "severity": finding.severity.value,
        "message": finding.message,
        "filename": _absolute(span.filename),
        "cell": span.cell,
        "location": _point(span.start),
        "end_location": _point(span.end),
        "fix": _fix(finding, report),
        "related": [
            {
                "filename": _absolute(each.span.filename),
                **_cell(each.span.cell),
                "location": _point(each.span.start),
                "message": each.message,
            }
            for each in finding.related
        ],
        "url": address(finding.name) or None,
        "confirmed": finding.confirmed,
    }


def _fix(finding: Finding, report: Report) -> dict[str, Any] | None:
    """The repair; without the text its edits have no rows, so it is left out."""
    if finding.fix is None:
        return None
    edits = [_edit(each, finding.span.filename, report) for each in finding.fix.edits]
    if any(each is None for each in edits):
        return None
    return {
        "applicability": finding.fix.safety.value,
        "message": finding.fix.message,
        "edits": edits,
    }


def _edit(edit: Edit, filename: str, report: Report) -> dict[str, Any] | None:
    start, end = report.place(filename, edit.start), report.place(filename, edit.end)
    if start is None or end is None:
        return None
    return {
        "content": edit.content,
        **_cell(start[0]),
        "location": _point(start[1]),
        "end_location": _point(end[1]),
    }


def _cell(number: int | None) -> dict[str, int]:
    """In a notebook, the cell: evidence and edits need not be in that of the finding."""
    return {} if number is None else {"cell": number}


def _point(at: Position) -> dict[str, int]:
    return {"row": at.row, "column": at.column}


def _absolute(filename: str) -> str:
    return str(Path(filename).absolute())

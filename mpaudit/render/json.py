"""The findings as JSON; keys and their meaning are a contract other programs rely on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mpaudit.finding import Finding, Position
from mpaudit.fix import Edit, Fix
from mpaudit.report import Report, position
from mpaudit.rule import URL


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
        "fix": _fix(finding.fix, report.sources.get(span.filename)),
        "related": [
            {
                "filename": _absolute(each.span.filename),
                "location": _point(each.span.start),
                "message": each.message,
            }
            for each in finding.related
        ],
        "url": URL.format(name=finding.name),
        "confirmed": finding.confirmed,
    }


def _fix(fix: Fix | None, text: str | None) -> dict[str, Any] | None:
    """The repair; without the text its edits have no rows, so it is left out."""
    if fix is None or text is None:
        return None
    return {
        "applicability": fix.safety.value,
        "message": fix.message,
        "edits": [_edit(each, text) for each in fix.edits],
    }


def _edit(edit: Edit, text: str) -> dict[str, Any]:
    return {
        "content": edit.content,
        "location": _point(position(text, edit.start)),
        "end_location": _point(position(text, edit.end)),
    }


def _point(at: Position) -> dict[str, int]:
    return {"row": at.row, "column": at.column}


def _absolute(filename: str) -> str:
    return str(Path(filename).absolute())

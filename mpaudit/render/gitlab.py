"""The findings as GitLab's code quality report."""

from __future__ import annotations

import json
from typing import Any

from mpaudit.finding import Finding, Position
from mpaudit.render.identity import fingerprints, relative, root
from mpaudit.report import Report
from mpaudit.rule import Severity

_SEVERITIES = {Severity.ERROR: "major", Severity.WARNING: "minor", Severity.ADVICE: "info"}


def render(report: Report) -> str:
    """A list of issues, as GitLab reads it from the artifact `codequality`."""
    folder = root()
    issues = []
    for finding, fingerprint in zip(report.findings, fingerprints(report), strict=True):
        path = relative(finding.span.filename, folder)
        issues.append(
            {
                "description": f"{_cell(finding)}{finding.code} {finding.name}: {finding.message}",
                "check_name": finding.name,
                "fingerprint": fingerprint,
                "severity": _SEVERITIES[finding.severity],
                "location": {
                    "path": path.as_posix() if path is not None else finding.span.filename,
                    "positions": _positions(finding),
                },
            }
        )
    return json.dumps(issues, indent=2) + "\n"


def _positions(finding: Finding) -> dict[str, Any]:
    """Where in the file; of a place in a cell only the description can tell."""
    span = finding.span
    if span.cell is not None:
        return {"begin": {"line": 1, "column": 1}, "end": {"line": 1, "column": 1}}
    return {"begin": _point(span.start), "end": _point(span.end)}


def _point(at: Position) -> dict[str, int]:
    return {"line": at.row, "column": at.column}


def _cell(finding: Finding) -> str:
    span = finding.span
    return "" if span.cell is None else f"cell {span.cell}, line {span.start.row}: "

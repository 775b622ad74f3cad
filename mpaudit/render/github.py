"""Commands that make GitHub Actions annotate the lines of a pull request."""

from __future__ import annotations

from pathlib import Path

from mpaudit.finding import Finding
from mpaudit.render.concise import place
from mpaudit.report import Report
from mpaudit.rule import Severity

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.ADVICE: "notice"}


def render(report: Report) -> str:
    """One `::error file=...` per finding; nothing if nothing was found."""
    return "".join(f"{_command(each)}\n" for each in report.findings)


def _command(finding: Finding) -> str:
    """The runner shows the message; what stands in a cell has no line of the file to be put at."""
    span = finding.span
    properties = {
        "title": f"mpaudit ({finding.code})",
        "file": str(Path(span.filename).absolute()),
    }
    if span.cell is None:
        properties |= {"line": str(span.start.row), "endLine": str(span.end.row)}
        if span.start.row == span.end.row:  # columns count within one line only
            properties |= {"col": str(span.start.column), "endColumn": str(span.end.column)}
    listed = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    text = f"{place(span)}: {finding.code} {finding.name}: {finding.message}"
    return f"::{_COMMANDS[finding.severity]} {listed}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")

"""The output formats of a check, by the names they have on the command line."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from mpaudit.errors import MpauditError
from mpaudit.report import Report

FOR_PEOPLE = {"full": "text", "concise": "concise", "grouped": "grouped"}
"""Those that may be coloured, with the modules that write them; a module is loaded when it is needed."""
FOR_PROGRAMS = {
    "json": "json",
    "json-lines": "json_lines",
    "junit": "junit",
    "github": "github",
    "gitlab": "gitlab",
    "pylint": "pylint",
    "rdjson": "rdjson",
    "sarif": "sarif",
}


def _writer(module: str) -> Callable[..., str]:
    written: Callable[..., str] = import_module(f"mpaudit.render.{module}").render
    return written


def rendered(report: Report, name: str, *, colour: bool) -> str:
    """The report in a format."""
    if name in FOR_PEOPLE:
        return _writer(FOR_PEOPLE[name])(report, colour=colour)
    return _writer(FOR_PROGRAMS[name])(report)


def counted(report: Report, name: str, *, colour: bool) -> str:
    """The counts of a report. Raises MpauditError for a format that has none."""
    from mpaudit.render import statistics

    if name == "json":
        return statistics.data(report)
    if name not in FOR_PEOPLE:
        raise MpauditError(
            f"check: --statistics has no {name} format; take {', '.join((*FOR_PEOPLE, 'json'))}"
        )
    return statistics.render(report, colour=colour)

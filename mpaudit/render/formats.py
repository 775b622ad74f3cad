"""The output formats of a check, by the names they have on the command line."""

from __future__ import annotations

from collections.abc import Callable

from mpaudit.errors import MpauditError
from mpaudit.render import (
    concise,
    github,
    gitlab,
    grouped,
    json,
    json_lines,
    junit,
    pylint,
    rdjson,
    sarif,
    statistics,
    text,
)
from mpaudit.report import Report

FOR_PEOPLE: dict[str, Callable[..., str]] = {
    "full": text.render,
    "concise": concise.render,
    "grouped": grouped.render,
}
"""Those that may be coloured."""
FOR_PROGRAMS: dict[str, Callable[[Report], str]] = {
    "json": json.render,
    "json-lines": json_lines.render,
    "junit": junit.render,
    "github": github.render,
    "gitlab": gitlab.render,
    "pylint": pylint.render,
    "rdjson": rdjson.render,
    "sarif": sarif.render,
}


def rendered(report: Report, name: str, *, colour: bool) -> str:
    """The report in a format."""
    if name in FOR_PEOPLE:
        return FOR_PEOPLE[name](report, colour=colour)
    return FOR_PROGRAMS[name](report)


def counted(report: Report, name: str, *, colour: bool) -> str:
    """The counts of a report. Raises MpauditError for a format that has none."""
    if name == "json":
        return statistics.data(report)
    if name not in FOR_PEOPLE:
        raise MpauditError(
            f"check: --statistics has no {name} format; take {', '.join((*FOR_PEOPLE, 'json'))}"
        )
    return statistics.render(report, colour=colour)

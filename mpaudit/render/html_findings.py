"""The findings of a run as cards on a page."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from msgspec import Struct

from mpaudit.finding import Finding
from mpaudit.fix import Safety, apply
from mpaudit.render.excerpt import Excerpt, excerpts
from mpaudit.report import Report

_HOW = {
    Safety.SAFE: "`--fix`",
    Safety.UNSAFE: "`--fix --unsafe-fixes`",
    Safety.SUGGESTION: "by hand",
}


class Repair(Struct, frozen=True):
    """The fix of a finding: what it does, how to have it, the diff; `same` as an earlier card."""

    message: str
    how: str
    diff: Sequence[str]
    same: str | None


class Card(Struct, frozen=True):
    """A finding and the source it is about."""

    finding: Finding
    anchor: str
    excerpts: Sequence[Excerpt]
    repair: Repair | None


def cards(report: Report) -> list[Card]:
    """The findings; a coupled fix is shown with the first of those it repairs."""
    made: list[Card] = []
    anchors: set[str] = set()
    shown: dict[object, str] = {}
    for finding in report.findings:
        repair = None
        if fix := finding.fix:
            key = (finding.span.filename, fix)
            same = shown.get(key)
            text = None if same else report.sources.get(finding.span.filename)
            diff = [] if text is None else _diff(text, apply(text, [fix])[0])
            repair = Repair(fix.message, _HOW[fix.safety], diff, same)
            shown.setdefault(key, finding.code)
        anchor = finding.code if finding.code not in anchors else f"finding-{len(made)}"
        anchors.add(anchor)
        made.append(Card(finding, anchor, excerpts(finding, report.sources), repair))
    return made


def _diff(before: str, after: str) -> list[str]:
    rows = difflib.unified_diff(before.splitlines(), after.splitlines(), n=2, lineterm="")
    return list(rows)[2:]  # without the names of the files

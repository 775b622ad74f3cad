"""The findings as SARIF 2.1.0, as GitHub's code scanning and editors read it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mpaudit import __version__
from mpaudit.finding import Finding, Position, Span
from mpaudit.fix import Edit
from mpaudit.render.identity import fingerprints, relative, root
from mpaudit.report import Report
from mpaudit.rule import URL, Rule, Severity, rule

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.ADVICE: "note"}
_PROBLEMS = {
    Severity.ERROR: "error",
    Severity.WARNING: "warning",
    Severity.ADVICE: "recommendation",
}
_IN_ORDER = re.compile(r"MP[1-6]")  # rules whose evidence is what happened before
_LONGEST = 1000  # characters of a description that GitHub takes


def render(report: Report) -> str:
    """One log with one run."""
    folder = root()
    rules = {each.name: rule(each.name) for each in report.findings}
    ordered = sorted(rules.values(), key=lambda each: each.code)
    index = {each.name: number for number, each in enumerate(ordered)}
    results = [
        _result(finding, fingerprint, index, report, folder)
        for finding, fingerprint in zip(report.findings, fingerprints(report), strict=True)
    ]
    driver = {
        "name": "mpaudit",
        "version": __version__,
        "semanticVersion": __version__,
        "informationUri": URL.partition("/rules/")[0],
        "rules": [_descriptor(each) for each in ordered],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {"SRCROOT": {"uri": folder.as_uri().rstrip("/") + "/"}},
        "invocations": [
            {
                "executionSuccessful": True,
                "toolExecutionNotifications": [
                    {"level": "warning", "message": {"text": each}} for each in report.warnings
                ],
            }
        ],
        "results": results,
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _descriptor(rule: Rule) -> dict[str, Any]:
    prose = re.sub(r"\s+", " ", rule.prose.split("\n\n")[0].replace("`", ""))
    _, _, page = rule.page.partition("```\n\n")
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": _short(prose)},
        "help": {"text": rule.prose, "markdown": page.strip() or rule.prose},
        **({"helpUri": rule.url} if rule.url else {}),
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {
            "tags": ["correctness", "mixed-precision", *rule.frameworks],
            "precision": "high",
            "problem.severity": _PROBLEMS[rule.severity],
        },
    }


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _result(
    finding: Finding, fingerprint: str, index: dict[str, int], report: Report, folder: Path
) -> dict[str, Any]:
    cell = "" if finding.span.cell is None else f"Cell {finding.span.cell}: "
    said = [f"{cell}{finding.message}", finding.consequence]
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": index[finding.name],
        "level": _LEVELS[finding.severity],
        "message": {"text": ". ".join(each.rstrip(".") for each in said if each) + "."},
        "locations": [_location(finding.span, folder)],
        "partialFingerprints": {"primaryLocationLineHash": fingerprint},
    }
    if finding.related:
        result["relatedLocations"] = [
            {"id": number, **_location(each.span, folder), "message": {"text": each.message}}
            for number, each in enumerate(finding.related)
        ]
        if _IN_ORDER.match(finding.code):
            result["codeFlows"] = [{"threadFlows": [{"locations": _steps(finding, folder)}]}]
    if fix := _fix(finding, report, folder):
        result["fixes"] = [fix]
    return result


def _steps(finding: Finding, folder: Path) -> list[dict[str, Any]]:
    """The evidence and then the finding, as the steps that lead there."""
    steps = [(each.span, each.message) for each in finding.related]
    return [
        {"location": {**_location(span, folder), "message": {"text": message}}}
        for span, message in (*steps, (finding.span, finding.message))
    ]


def _location(span: Span, folder: Path) -> dict[str, Any]:
    """A place; one in a cell of a notebook is named, its lines are not those of the file."""
    artifact = {"artifactLocation": _artifact(span.filename, folder)}
    if span.cell is None:
        return {"physicalLocation": {**artifact, "region": _region(span.start, span.end)}}
    return {
        "physicalLocation": {**artifact, "region": {"startLine": 1}},
        "logicalLocations": [
            {
                "fullyQualifiedName": f"cell {span.cell}, line {span.start.row}",
                "kind": "member",
            }
        ],
    }


def _artifact(filename: str, folder: Path) -> dict[str, str]:
    path = relative(filename, folder)
    if path is None:
        return {"uri": Path(filename).absolute().as_uri()}
    return {"uri": quote(path.as_posix(), errors="surrogateescape"), "uriBaseId": "SRCROOT"}


def _region(start: Position, end: Position) -> dict[str, int]:
    return {
        "startLine": start.row,
        "startColumn": start.column,
        "endLine": end.row,
        "endColumn": end.column,
    }


def _fix(finding: Finding, report: Report, folder: Path) -> dict[str, Any] | None:
    if finding.fix is None or finding.span.cell is not None:
        return None
    replacements = list(_replacements(finding.fix.edits, finding.span.filename, report))
    if len(replacements) < len(finding.fix.edits):
        return None
    return {
        "description": {"text": finding.fix.message},
        "artifactChanges": [
            {
                "artifactLocation": _artifact(finding.span.filename, folder),
                "replacements": replacements,
            }
        ],
    }


def _replacements(edits: Iterable[Edit], filename: str, report: Report) -> Iterable[dict[str, Any]]:
    for edit in edits:
        start, end = report.place(filename, edit.start), report.place(filename, edit.end)
        if start is not None and end is not None:
            yield {
                "deletedRegion": _region(start[1], end[1]),
                "insertedContent": {"text": edit.content},
            }

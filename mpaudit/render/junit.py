"""The findings as failed tests, for whatever reads JUnit's XML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import PurePath
from xml.sax.saxutils import escape, quoteattr

from mpaudit.finding import Finding
from mpaudit.render.concise import place
from mpaudit.report import Report, shown

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: Report) -> str:
    """A suite per file with findings, a failed test per finding; a passed one if there are none."""
    suites = [
        _suite(shown(filename), list(group))
        for filename, group in groupby(report.findings, key=lambda each: each.span.filename)
    ]
    if not suites:
        case = '    <testcase name="No errors found" classname="mpaudit" time="0"></testcase>\n'
        suites = [_tag("testsuite", "mpaudit", 1, 0) + case + "  </testsuite>\n"]
    count = len(report.findings)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<testsuites name="mpaudit" tests="{count or 1}" failures="{count}" errors="0">\n'
        f"{''.join(suites)}</testsuites>\n"
    )


def _suite(filename: str, findings: Sequence[Finding]) -> str:
    count = len(findings)
    cases = "".join(_case(PurePath(filename), each) for each in findings)
    return f"{_tag('testsuite', filename, count, count)}{cases}  </testsuite>\n"


def _tag(kind: str, name: str, tests: int, failures: int) -> str:
    counts = f'tests="{tests}" skipped="0" errors="0" failures="{failures}"'
    return f"  <{kind} name={_quoted(name)} {counts}>\n"


def _case(path: PurePath, finding: Finding) -> str:
    name = _quoted(f"{finding.code} {finding.name}")
    classname = _quoted(".".join(path.with_suffix("").parts).replace("/", ""))
    told = [f"{place(finding.span)}: {finding.message}"]
    told += [f"{place(each.span)}: {each.message}" for each in finding.related]
    told += [finding.consequence] if finding.consequence else []
    text = escape(_visible("\n".join(told)))
    failure = f"      <failure message={_quoted(finding.message)} type={name}>{text}</failure>\n"
    return f'    <testcase name={name} classname={classname} time="0">\n{failure}    </testcase>\n'


def _quoted(text: str) -> str:
    return quoteattr(_visible(text))


def _visible(text: str) -> str:
    """`text` without the characters that XML cannot hold."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)

"""How often each rule was broken."""

from __future__ import annotations

import json
from collections import Counter

from mpaudit.render.colour import painter
from mpaudit.report import Report, text_of


def render(report: Report, *, colour: bool = False) -> str:
    """A line per rule, the commonest first; `[*]` where `--fix` repairs every one."""
    paint = painter(colour)
    wide = max((len(str(count)) for _, count, _ in _counted(report)), default=0)
    lines = []
    for (code, name), count, fixable in _counted(report):
        star = f"[{paint('*', 'good') if fixable == count else ' '}]"
        lines.append(f"{paint(f'{count:>{wide}}', 'strong')}  {code}  {star}  {name}")
    return text_of((*lines, *report.summary()))


def data(report: Report) -> str:
    """The same as JSON."""
    rows = [
        {"code": code, "name": name, "count": count, "fixable_count": fixable}
        for (code, name), count, fixable in _counted(report)
    ]
    return json.dumps(rows, indent=2) + "\n"


def _counted(report: Report) -> list[tuple[tuple[str, str], int, int]]:
    """Code and name, how often, how often with a fix that would be applied."""
    counts = Counter((each.code, each.name) for each in report.findings)
    fixable = Counter((f.code, f.name) for f in report.findings if report.fixable(f))
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    return [(rule, count, fixable[rule]) for rule, count in ordered]

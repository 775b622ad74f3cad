"""The list of rules: as a table, as JSON, or as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mpaudit.render.colour import painter
from mpaudit.rule import Rule


def entry(rule: Rule) -> dict[str, object]:
    """What the list says of a rule."""
    return {
        "code": rule.code,
        "name": rule.name,
        "summary": rule.summary,
        "severity": rule.severity.value,
        "seen_by": list(rule.seen_by),
        "fix": rule.fix,
        "frameworks": list(rule.frameworks),
        "preview": rule.preview,
    }


def seen(rule: Rule) -> str:
    """Who can see it: the "source", a "run", or "both"."""
    return "both" if len(rule.seen_by) > 1 else rule.seen_by[0]


def data(rules: Sequence[Rule]) -> str:
    """A JSON list of objects."""
    return json.dumps([entry(rule) for rule in rules], indent=2) + "\n"


def text(rules: Sequence[Rule], *, colour: bool = False) -> str:
    """A table for a terminal."""
    paint = painter(colour)
    wide = max((len(rule.name) for rule in rules), default=0)
    codes = max((len(rule.code) for rule in rules), default=0)
    lines = []
    for rule in rules:
        kind = rule.severity.value
        fix = "" if rule.fix == "none" else f"{rule.fix} fix"
        mark = " (preview)" if rule.preview else "" if rule.default else " (off unless selected)"
        columns = f"{paint(f'{kind:7}', kind)}  {seen(rule):6}  {fix:14}  {rule.summary}{mark}"
        lines.append(f"{rule.code:{codes}}  {rule.name:{wide}}  {columns}")
    return "\n".join(lines) + "\n"


def markdown(rules: Sequence[Rule]) -> str:
    """A Markdown table."""
    lines = ["| code | name | severity | seen by | fix | what |", "|---|---|---|---|---|---|"]
    for rule in rules:
        link = f"[{rule.name}]({rule.url})" if rule.url else rule.name
        name = f"{link}{' (preview)' if rule.preview else ''}"
        columns = rule.severity.value, seen(rule), rule.fix, rule.summary.replace("|", "\\|")
        lines.append(f"| {rule.code} | {name} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"

"""Comments that silence findings, put where they count."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterable

from msgspec import Struct, field

from mpaudit.finding import Finding
from mpaudit.fix import Edit
from mpaudit.suppress.directive import Kind, directives
from mpaudit.suppress.reading import tokens

_NEWLINE = re.compile(r"\r\n|\r|\n")


class _Lines(Struct):
    """Where comments can go: behind which rows, in which there are, and where statements begin."""

    open: set[int] = field(default_factory=set)
    comments: dict[int, tuple[int, str]] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)


def added(text: str, code: str, findings: Iterable[Finding], reason: str) -> list[Edit]:
    """Edits of `text` that silence findings in it; `code` is what Python reads of it.

    The comment goes behind the first or the last row of a finding, or, where neither can take one
    (within a string, before a backslash), above its statement.
    """
    lines = _lines(code)
    starts = [0, *(match.end() for match in _NEWLINE.finditer(text)), len(text) + 1]
    behind: dict[int, list[str]] = {}
    above: dict[int, list[str]] = {}
    for finding in findings:
        begin, end = finding.span.start, finding.span.end
        last = end.row - (end.column == 1 and end.row > begin.row)
        row = next((row for row in (begin.row, last) if row in lines.open), None)
        if row is not None:
            names = behind.setdefault(row, [])
        else:
            names = above.setdefault(lines.first.get(begin.row, begin.row), [])
        if finding.name not in names:
            names.append(finding.name)
    remark = f" {reason}" if reason else ""
    edits = []
    for row, names in behind.items():
        start, end_of_row = starts[row - 1], starts[row] - 1
        known = _list(lines.comments.get(row), start)
        if known is not None:
            edits.append(_longer(known, names, text))
            continue
        place = start + len(text[start:end_of_row].rstrip())
        edits.append(Edit(place, place, f"  # mpaudit: ignore[{', '.join(names)}]{remark}"))
    newline = _NEWLINE.search(text)
    for row, names in above.items():
        start = starts[row - 1]
        indent = re.match(r"[ \t\f]*", text[start:])
        lead, tail = indent.group() if indent else "", newline.group() if newline else "\n"
        comment = f"{lead}# mpaudit: ignore[{', '.join(names)}]{remark}{tail}"
        edits.append(Edit(start, start, comment))
    return edits


def _list(comment: tuple[int, str] | None, start: int) -> tuple[int, int] | None:
    """Where the list of an `ignore` in a row's comment stands, None without one."""
    if comment is None:
        return None
    column, string = comment
    for directive in directives(string, start + column):
        if directive.kind is Kind.IGNORE and directive.words:
            return directive.listed
    return None


def _longer(listed: tuple[int, int], names: list[str], text: str) -> Edit:
    start, end = listed
    kept = text[start:end].rstrip(" \t,")
    return Edit(start, end, ", ".join([kept, *names]))


def _lines(code: str) -> _Lines:
    lines = _Lines()
    first = None
    for token in tokens(code):
        row, column = token.start
        if token.type == tokenize.COMMENT:
            lines.comments[row] = column, token.string
        elif token.type in (tokenize.NEWLINE, tokenize.NL):
            lines.open.add(row)
        if token.type == tokenize.NEWLINE:
            first = None
        elif token.type not in (tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT):
            first = first or row
            for each in range(row, token.end[0] + 1):
                lines.first.setdefault(each, first)
    return lines

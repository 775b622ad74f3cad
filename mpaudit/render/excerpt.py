"""The source around a finding, cut into pieces that a page can colour."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from msgspec import Struct

from mpaudit.finding import Finding, Span
from mpaudit.render.frame import cell_width
from mpaudit.report import line

CONTEXT = 2  # rows before and after the finding itself
LONG = 6  # rows of a finding that are all shown; of a longer one the first and the last
KEPT = 120  # characters of one piece of a row that are shown
EVIDENCE = "evidence"


class Piece(Struct, frozen=True):
    """Characters of one row; `style` is a severity, "evidence", or empty for the rest."""

    text: str
    style: str


class Label(Struct, frozen=True):
    """What happened at a marked stretch; `indent` is the column, from 0, at which that starts."""

    indent: int
    text: str


class Row(Struct, frozen=True):
    """One row (from 1) of a file; `gap` says that rows before it are left out."""

    number: int
    pieces: Sequence[Piece]
    labels: Sequence[Label]
    gap: bool


class Excerpt(Struct, frozen=True):
    """The rows of one file that a finding is about; none if its text is not at hand.

    `at` is the first place there; `notes` are the labels, for a text that cannot be shown.
    """

    at: Span
    rows: Sequence[Row]
    notes: Sequence[tuple[Span, str]] = ()


class _Mark(Struct, frozen=True):
    span: Span
    label: str
    style: str


def excerpts(finding: Finding, sources: Mapping[str, str]) -> list[Excerpt]:
    """One excerpt for each file of a finding and its evidence, the finding's own first."""
    marks = [_Mark(finding.span, "", finding.severity.value)]
    marks += [_Mark(each.span, each.message, EVIDENCE) for each in finding.related]
    files: dict[tuple[str, int | None], list[_Mark]] = {}
    for mark in marks:
        files.setdefault((mark.span.filename, mark.span.cell), []).append(mark)
    return [
        _excerpt(group, None if cell is not None else sources.get(filename))
        for (filename, cell), group in files.items()
    ]


def _excerpt(marks: Sequence[_Mark], text: str | None) -> Excerpt:
    at = marks[0].span
    if text is None:
        return Excerpt(at, (), [(mark.span, mark.label) for mark in marks if mark.label])
    rows: list[Row] = []
    for number in _shown(marks, text):
        gap = bool(rows) and number > rows[-1].number + 1
        rows.append(_row(number, line(text, number), marks, gap))
    return Excerpt(at, rows)


def _shown(marks: Iterable[_Mark], text: str) -> list[int]:
    rows: set[int] = set()
    for mark in marks:
        own = _marked(mark)
        rows.update(own)
        if mark.style != EVIDENCE:
            before = range(max(own[0] - CONTEXT, 1), own[0])
            after = range(own[-1] + 1, own[-1] + 1 + CONTEXT)
            rows |= {row for row in (*before, *after) if line(text, row).strip()}
    rows |= {row + 1 for row in rows if row + 2 in rows}
    return sorted(rows)


def _marked(mark: _Mark) -> Sequence[int]:
    """The rows that a mark is drawn in; mere evidence only in its first."""
    first, last = mark.span.start.row, mark.span.end.row
    if mark.span.end.column == 1 and last > first:
        last -= 1
    if mark.style == EVIDENCE or last <= first:
        return (first,)
    return range(first, last + 1) if last - first < LONG else (first, last)


def _row(number: int, code: str, marks: Sequence[_Mark], gap: bool) -> Row:
    stretches = [
        (*_stretch(mark.span, number, code), mark) for mark in marks if number in _marked(mark)
    ]
    cuts = sorted({0, len(code), *(at for start, end, _ in stretches for at in (start, end))})
    pieces: list[Piece] = []
    columns = {0: 0}  # where the character at an offset is shown
    for start, end in pairwise(cuts):
        styles = [mark.style for first, last, mark in stretches if first <= start and end <= last]
        style = next((each for each in styles if each != EVIDENCE), styles[0] if styles else "")
        piece = Piece(_clipped(code[start:end], tail=not style and start == 0), style)
        columns[end] = columns[start] + cell_width(piece.text)
        pieces.append(piece)
    labels = [Label(columns[start], mark.label) for start, _, mark in stretches if mark.label]
    return Row(number, pieces, labels, gap)


def _stretch(span: Span, row: int, code: str) -> tuple[int, int]:
    """The characters of `row` that `span` covers; all of the code for a span without width."""
    start, end = len(code) - len(code.lstrip()), len(code.rstrip())
    if span.start == span.end:
        return min(start, end), end
    if row == span.start.row:
        start = min(span.start.column - 1, len(code))
    if row == span.end.row:
        end = min(span.end.column - 1, len(code))
    return start, max(start, end)


def _clipped(text: str, *, tail: bool) -> str:
    """A piece short enough to be read; of what comes before the first mark the end is kept."""
    if len(text) <= KEPT:
        return text
    return f"…{text[-KEPT:]}" if tail else f"{text[:KEPT]}…"


def visible(text: str) -> str:
    """`text` with a sign for every character that would hide, or turn what stands around it."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if each not in "\n\t" and unicodedata.category(each) in ("Cc", "Cf", "Cs")
        else each
        for each in text
    )

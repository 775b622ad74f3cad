"""A piece of source text with its stretches underlined and labelled, as rustc and ruff draw it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from msgspec import Struct

from mpaudit.finding import Span
from mpaudit.render.colour import Paint
from mpaudit.report import line

CONTEXT = 2  # lines before and after the finding itself
TAB = "    "
WIDTH = 140  # columns of source text that are shown of one line
LEAD = 20  # columns kept before a stretch in a line that is wider
LONG = 4  # rows of a stretch that are all shown; of a longer one the first and the last


class Mark(Struct, frozen=True):
    """A stretch to underline and what to write beside it; `style` "frame" marks mere evidence."""

    span: Span
    label: str
    style: str


class _Underline(Struct, frozen=True):
    """The part of a mark that lies in one row; columns from 0, in characters, `end` exclusive."""

    start: int
    end: int
    label: str
    style: str


def draw(marks: Sequence[Mark], text: str, gutter: int, paint: Paint) -> list[str]:
    """The lines of the frame: rows, underlines and, where rows are left out, dots."""
    underlines: dict[int, list[_Underline]] = {}
    for mark in marks:
        for row, underline in _underlines(mark, text):
            underlines.setdefault(row, []).append(underline)
    bar = paint("|", "frame")
    margin = f"{'':{gutter}} {bar}"
    lines = [margin]
    last = 0
    for row in _rows(marks, underlines, text):
        if last and row > last + 1:
            lines.append(paint("...", "frame"))
        last = row
        cells = _Cells(line(text, row), underlines.get(row, ()))
        number = paint(f"{row:>{gutter}}", "frame")
        lines.append(f"{number} {bar} {cells.shown}".rstrip())
        for each in sorted(underlines.get(row, ()), key=lambda u: (u.style == "frame", u.start)):
            sign = "-" if each.style == "frame" else "^"
            start, end = cells.column(each.start), cells.column(each.end)
            label = f" {each.label}" if each.label else ""
            line_below = paint(sign * max(end - start, 1) + label, each.style)
            lines.append(f"{margin} {' ' * start}{line_below}")
    lines.append(margin)
    return lines


def _underlines(mark: Mark, text: str) -> Iterator[tuple[int, _Underline]]:
    """The rows a mark runs through, the label at the last one; of mere evidence only the first.

    A span without width in the first column says no more than the row: all of its code is marked.
    """
    first, last = mark.span.start.row, mark.span.end.row
    if mark.span.end.column == 1 and last > first:
        last -= 1
    if mark.style == "frame":
        last = first
    rows = range(first, last + 1) if last - first < LONG else (first, last)
    row_alone = mark.span.start == mark.span.end and mark.span.start.column == 1
    for row in rows:
        code = line(text, row)
        indent, length = len(code) - len(code.lstrip()), len(code.rstrip())
        start = mark.span.start.column - 1 if row == first and not row_alone else indent
        end = mark.span.end.column - 1 if row == mark.span.end.row and not row_alone else length
        if row == last or end > start:
            yield row, _Underline(start, end, mark.label if row == last else "", mark.style)


def _rows(marks: Sequence[Mark], marked: dict[int, list[_Underline]], text: str) -> list[int]:
    """The rows to show: marked ones, some around the finding, and any single one left between."""
    rows = set(marked)
    for mark in marks:
        if mark.style != "frame":
            before = range(max(mark.span.start.row - CONTEXT, 1), mark.span.start.row)
            after = range(mark.span.end.row + 1, mark.span.end.row + 1 + CONTEXT)
            rows |= {row for row in (*before, *after) if line(text, row).strip()}
    rows |= {row + 1 for row in rows if row + 2 in rows}
    return sorted(rows)


class _Cells:
    """A line as a terminal shows it, and the terminal column of each of its characters."""

    def __init__(self, code: str, underlines: Sequence[_Underline]) -> None:
        pieces = [_cell(character) for character in code]
        columns = [0]
        for _, width in pieces:
            columns.append(columns[-1] + width)
        begin, end = 0, len(pieces)
        if columns[-1] > WIDTH:
            wanted = min((columns[min(u.start, end)] for u in underlines), default=0)
            if wanted > WIDTH - LEAD:
                begin = next(i for i, column in enumerate(columns) if column >= wanted - LEAD)
            end = max(i for i, column in enumerate(columns) if column - columns[begin] <= WIDTH)
        left = "…" if begin else ""
        right = "…" if end < len(pieces) else ""
        self.shown = left + "".join(piece for piece, _ in pieces[begin:end]) + right
        self._columns = [
            min(max(column, columns[begin]), columns[end]) - columns[begin] + len(left)
            for column in columns
        ]

    def column(self, index: int) -> int:
        """The terminal column, from 0, in front of the character at `index`."""
        past = max(index - len(self._columns) + 1, 0)
        return self._columns[index - past] + past


def cell_width(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    return sum(_cell(character)[1] for character in text)


def _cell(character: str) -> tuple[str, int]:
    """How a character is shown and how many columns it takes.

    Control characters and those that turn the direction of text are replaced: what is shown must be
    what is there.
    """
    if character == "\t":
        return TAB, len(TAB)
    category = unicodedata.category(character)
    if category in ("Mn", "Me"):
        return character, 0
    if category in ("Cc", "Cf", "Cs"):
        return "\N{REPLACEMENT CHARACTER}", 1
    return character, 2 if unicodedata.east_asian_width(character) in "WF" else 1

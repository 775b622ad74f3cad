"""The code cells of a notebook as stretches of one text, and places as a reader of cells counts them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace

from mpaudit.finding import Finding, Position, Related, Span
from mpaudit.fix import Edit, Fix

BETWEEN = "\n\n"
"""What the text has behind every cell: a line end, and an empty line.

So what is put behind one cell is never mistaken for the beginning of the next.
"""
_NEWLINE_AT_END = re.compile(r"(?:\r\n|\r|\n)\Z")


class Cell(Struct, frozen=True):
    """A code cell: its `number` (from 1, over all cells), its first row and its characters in the text."""

    number: int
    row: int
    start: int
    end: int


def localised(finding: Finding, filename: str, cells: Sequence[Cell], text: str) -> Finding:
    """A finding with its places in a notebook as rows of cells; `text` is that of all cells.

    A fix keeps its offsets, but stays within the cells; one that cannot is dropped.
    """
    related = (
        Related(_local(each.span, cells), each.message) if each.span.filename == filename else each
        for each in finding.related
    )
    finding = replace(finding, related=tuple(related))
    if finding.span.filename != filename:
        return finding
    fix = finding.fix and within(finding.fix, cells, text)
    return replace(finding, span=_local(finding.span, cells), fix=fix)


def _local(span: Span, cells: Sequence[Cell]) -> Span:
    cell = max((each for each in cells if each.row <= span.start.row), key=lambda c: c.row)
    start = Position(span.start.row - cell.row + 1, span.start.column)
    end = Position(span.end.row - cell.row + 1, span.end.column)
    return Span(span.filename, start, end, cell.number)


def at(offset: int, cells: Iterable[Cell]) -> Cell | None:
    """The cell that holds the place in front of a character of the text, or its own end."""
    return next((cell for cell in cells if cell.start <= offset <= cell.end), None)


def within(fix: Fix, cells: Sequence[Cell], text: str) -> Fix | None:
    """The same repair with every edit inside of one cell; None where there is no such repair.

    A cell seldom ends in a line end, so lines that are added behind it or taken off its end are
    reckoned with the line end before them instead of the one after them.
    """
    edits = [_within(edit, cells, text) for edit in fix.edits]
    held = sorted(edit for edit in edits if edit is not None)
    if len(held) < len(edits) or any(one.end > other.start for one, other in pairwise(held)):
        return None
    return replace(fix, edits=tuple(held))


def _within(edit: Edit, cells: Sequence[Cell], text: str) -> Edit | None:
    cell = next((each for each in cells if each.start <= edit.start <= each.end + 1), None)
    if cell is None or edit.end > cell.end + len(BETWEEN):
        return None
    if edit.end <= cell.end:
        return edit
    start, content = min(edit.start, cell.end), edit.content
    ended = _NEWLINE_AT_END.search(content)
    if ended:
        added = ended.group() if edit.start > cell.end else ""
        return Edit(start, cell.end, added + content.removesuffix(ended.group()))
    before = _NEWLINE_AT_END.search(text[cell.start : start])
    if before and not content:
        start -= len(before.group())
    return Edit(start, cell.end, content)

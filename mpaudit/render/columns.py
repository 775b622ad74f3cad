"""A table of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mpaudit.render.frame import cell_width


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell, two spaces between, nothing at the line ends."""
    cells = [titles, *rows]
    widths = [max(map(cell_width, column)) for column in zip(*cells, strict=True)]
    return [f"  {'  '.join(_padded(row, widths))}".rstrip() for row in cells]


def _padded(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for text, width in zip(row, widths, strict=True):
        yield text + " " * (width - cell_width(text))

"""What a repair would change, as unified diffs that `patch` and `git apply -p0` take."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from difflib import unified_diff

from mpaudit.render.colour import Paint, painter
from mpaudit.report import shown

_STYLES = {"---": "strong", "+++": "strong", "@@ ": "frame"}


def render(changes: Mapping[str, tuple[str, str]], *, colour: bool = False) -> str:
    """One diff per file, or cell, of `changes`: its name to its text before and after."""
    paint = painter(colour)
    return "".join(
        "".join(_diff(shown(filename), before, after, paint))
        for filename, (before, after) in sorted(changes.items(), key=_order)
        if before != after
    )


def _order(change: tuple[str, tuple[str, str]]) -> tuple[str, int]:
    """By file, then by the number of the cell."""
    name, cell, number = change[0].rpartition(":cell ")
    return (name, int(number)) if cell and number.isdigit() else (change[0], 0)


def excerpt(before: str, after: str, paint: Paint) -> list[str]:
    """What changes from one text to the other, with a row of context around it, in single rows."""
    rows = unified_diff(before.splitlines(), after.splitlines(), n=1, lineterm="")
    return [
        paint("...", "frame") if row.startswith("@@ ") else _painted(row, paint)
        for row in rows
        if not row.startswith(("--- ", "+++ "))
    ][1:]


def _painted(row: str, paint: Paint) -> str:
    style = {"-": "removed", "+": "added"}.get(row[:1], "")
    return paint(row, style) if style else row


def _diff(name: str, before: str, after: str, paint: Paint) -> Iterator[str]:
    old, new = (io.StringIO(text).readlines() for text in (before, after))
    for number, row in enumerate(unified_diff(old, new, name, name)):
        style = _STYLES.get(row[:3], "") if number < 2 or row.startswith("@@ ") else ""
        style = style or {"-": "removed", "+": "added"}.get(row[0], "")
        body = row.removesuffix("\n")
        yield paint(body, style) if style else body
        yield "\n" if row.endswith("\n") else "\n\\ No newline at end of file\n"

"""The one value that every renderer of a check gets."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import force_setattr, replace

from mpaudit.cell import Cell, at
from mpaudit.finding import Finding, Position, Span
from mpaudit.fix import Safety
from mpaudit.rule import rule

_NEWLINE = re.compile(r"\r\n|\r|\n")


class Report(Struct, frozen=True):
    """What a check found, and what it looked at.

    `findings` are kept in order of file, cell, row, column and code. `sources` holds the decoded
    text of at least every file with findings, by the filename their spans use; of a notebook it is
    the text of its code cells, and `cells` says where in it each one is. `checked` counts the files
    that were looked at, `files` names them. `fixed` counts the findings repaired in each file, by the
    rule's name. `warnings` are lines for stderr about things that are no findings. `unsafe_fixes` says
    whether unsafe repairs were asked for, `fixing` whether repairs were to be applied, `listing` whether
    they are to be listed, `quiet` that findings are shown and nothing else. `remarks` tell what was done,
    for those who ask. `rests_on` are the absolute paths that the answer depends on.
    """

    findings: Sequence[Finding]
    sources: Mapping[str, str] = field(default_factory=dict)
    checked: int = 0
    files: Sequence[str] = ()
    fixed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    cells: Mapping[str, Sequence[Cell]] = field(default_factory=dict)
    unsafe_fixes: bool = False
    fixing: bool = False
    listing: bool = False
    quiet: bool = False
    remarks: Sequence[str] = ()
    rests_on: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        force_setattr(self, "findings", tuple(sorted(self.findings, key=_order)))

    def text(self, span: Span) -> str | None:
        """The text that the rows of `span` count in: a file's, or a cell's; None if it is not at hand."""
        text = self.sources.get(span.filename)
        if span.cell is None or text is None:
            return text if span.filename not in self.cells else None
        cells = self.cells.get(span.filename, ())
        return next((text[c.start : c.end] for c in cells if c.number == span.cell), None)

    def place(self, filename: str, offset: int) -> tuple[int | None, Position] | None:
        """The cell, and the row and column, of an offset in a file's text; None if there is none."""
        text = self.sources.get(filename)
        if text is None or filename not in self.cells:
            return None if text is None else (None, position(text, offset))
        cell = at(offset, self.cells[filename])
        if cell is None:
            return None
        return cell.number, position(text[cell.start : cell.end], offset - cell.start)

    def fixable(self, finding: Finding) -> bool:
        """Whether `--fix`, with the options of this report, repairs `finding`."""
        if finding.fix is None or finding.fix.safety is Safety.SUGGESTION:
            return False
        return self.unsafe_fixes or finding.fix.safety is Safety.SAFE

    def summary(self) -> tuple[str, ...]:
        """The closing lines, in ruff's words."""
        if self.quiet:
            return ()
        fixed, left = self.repaired, len(self.findings)
        if self.listing and fixed:
            return (*self.repairs(), *replace(self, listing=False).summary())
        if not fixed and not left:
            return ("All checks passed!",)
        found = f"Found {count(fixed + left, 'error')}"
        first = f"{found} ({fixed} fixed, {left} remaining)." if fixed else f"{found}."
        now = sum(map(self.fixable, self.findings))
        unsafe = f"{count(self.hidden(), 'unsafe fix')} available with `--fix --unsafe-fixes`"
        if now and not self.fixing:
            more = f" ({unsafe})" if self.hidden() else ""
            return (first, f"[*] {now} fixable with `--fix`{more}.")
        return (first, f"{unsafe}.") if self.hidden() else (first,)

    def repairs(self) -> tuple[str, ...]:
        """What was repaired in each file, rule by rule, in ruff's words."""
        lines = ["", f"Fixed {count(self.repaired, 'error')}:"]
        for filename, names in sorted(self.fixed.items()):
            lines.append(f"- {shown(filename)}:")
            ordered = sorted(names.items(), key=lambda each: (-each[1], rule(each[0]).code))
            wide = max((len(str(number)) for _, number in ordered), default=0)
            lines += [f"    {n:>{wide}} × {rule(name).code} ({name})" for name, n in ordered]
        return (*lines, "")

    @property
    def repaired(self) -> int:
        """How many findings were repaired."""
        return sum(sum(each.values()) for each in self.fixed.values())

    def hidden(self) -> int:
        """How many findings only `--unsafe-fixes` would repair."""
        if self.unsafe_fixes:
            return 0
        fixes = (each.fix for each in self.findings)
        return sum(fix is not None and fix.safety is Safety.UNSAFE for fix in fixes)


def text_of(rows: Sequence[str]) -> str:
    """Rows as a text, each with its line feed; no rows are no text."""
    return "".join(f"{row}\n" for row in rows)


def count(number: int, thing: str) -> str:
    """`number` and `thing` in the plural it takes ("1 unsafe fix", "2 unsafe fixes")."""
    plural = "es" if thing.endswith(("x", "s")) else "s"
    return f"{number} {thing}{'' if number == 1 else plural}"


def position(text: str, offset: int) -> Position:
    """The row and column (from 1) of the character at `offset` (from 0) of `text`."""
    starts = _starts(text)
    row = bisect_right(starts, offset)
    return Position(row, offset - starts[row - 1] + 1)


def line(text: str, row: int) -> str:
    """The line in `row` (from 1) of `text` without its ending; empty past the end."""
    starts = _starts(text)
    if row > len(starts):
        return ""
    end = starts[row] if row < len(starts) else len(text)
    return text[starts[row - 1] : end].rstrip("\r\n")


@lru_cache(maxsize=256)
def _starts(text: str) -> tuple[int, ...]:
    """Where each line starts; a line ends as Python's do, with a line feed, a return or both."""
    return (0, *(match.end() for match in _NEWLINE.finditer(text)))


def shown(filename: str) -> str:
    """`filename` as a person at this folder would write it."""
    try:
        return str(Path(filename).relative_to(Path.cwd()))
    except ValueError:
        return filename


def _order(finding: Finding) -> tuple[str, int, int, int, str]:
    span: Span = finding.span
    return (span.filename, span.cell or 0, span.start.row, span.start.column, finding.code)

"""Where something is (Span in text, Moment in a run), and what was found there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import astuple

if TYPE_CHECKING:
    from mpaudit.fix import Fix
    from mpaudit.rule import Severity


class Position(Struct, frozen=True, order=True):
    """A place in a text: row and column, both counted from 1; the column counts characters."""

    row: int
    column: int


class Span(Struct, frozen=True, order=True):
    """A stretch of one file's text; `end` is exclusive.

    `cell` is the 1-based cell of a notebook (rows then count within the cell), None in a script.
    """

    filename: str
    start: Position
    end: Position
    cell: int | None = None

    def __hash__(self) -> int:  # of what a run keeps in each step: without a call for each position
        start, end = self.start, self.end
        return hash((self.filename, start.row, start.column, end.row, end.column, self.cell))

    def __str__(self) -> str:
        return f"{self.filename}:{self.start.row}:{self.start.column}"


class Moment(Struct, frozen=True):
    """A point of a run: attempt to step (from 0), layer path, operation, rank of the process."""

    step: int
    layer: str | None = None
    op: str | None = None
    rank: int = 0


class Related(Struct, frozen=True):
    """A place that explains a finding, with what happened there ("scaled here")."""

    span: Span
    message: str


class Problem(Struct, frozen=True):
    """What a protocol or a check yields: a rule's name and where it was broken, nothing more.

    `consequence` says in words and numbers what the mistake does to the training. `subjects` name the
    objects involved as the user spells them ({"scaler": "policy", "optimizer": "optimizer"}); fixes
    use them.
    """

    rule: str
    span: Span
    message: str
    consequence: str = ""
    related: tuple[Related, ...] = ()
    subjects: tuple[tuple[str, str], ...] = ()
    moment: Moment | None = None


class Finding(Struct, frozen=True):
    """One occurrence of a rule's mistake, ready to be shown; the same type for source and run."""

    code: str
    name: str
    severity: Severity
    message: str
    span: Span
    consequence: str = ""
    fix: Fix | None = None
    related: tuple[Related, ...] = ()
    moment: Moment | None = None
    confirmed: bool = False
    subjects: tuple[tuple[str, str], ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Finding) and self._shown() == other._shown()

    def __hash__(self) -> int:
        return hash(self._shown())

    def _shown(self) -> tuple[object, ...]:
        return astuple(self)[:-1]  # without the subjects

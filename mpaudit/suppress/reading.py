"""From the comments of a text to what each of them silences."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from mpaudit.cell import Cell
from mpaudit.config import nearest
from mpaudit.finding import Finding
from mpaudit.rule import find, prefixes
from mpaudit.suppress.directive import Directive, Kind, directives, gate

_NEWLINE = re.compile(r"\r\n|\r|\n")
_EXAMPLE = "name the rules, as in `# mpaudit: {}[missing-scaler-update]`"
_NO_CODE = {tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


class Suppression(Struct, eq=False):
    """A directive, or one word of a `disable`; its own row, and the rows it speaks for.

    On a line of its own (`alone`) it silences what begins in those rows; behind code it silences what
    begins or ends in its own row. `ender` is the `enable` that ends a range.
    """

    directive: Directive
    words: tuple[str, ...]
    row: int
    first: int
    last: int
    alone: bool
    ender: Directive | None = None

    def covers(self, finding: Finding) -> bool:
        """Whether the comment silences `finding`."""
        if self.word_for(finding) is None:
            return False
        start, end = finding.span.start, finding.span.end
        if self.alone:
            return self.first <= start.row <= self.last
        ends_above = end.column == 1 and end.row > start.row  # a span's end is exclusive
        return self.row in (start.row, end.row - ends_above)

    def word_for(self, finding: Finding) -> str | None:
        """The word of the list that means the finding's rule."""
        names = (finding.code.lower(), finding.name)
        return next((word for word in self.words if word.lower() in names), None)


class Suppressions(Struct, frozen=True):
    """What the comments of one text silence, and `warnings` about those that cannot silence."""

    comments: tuple[Suppression, ...] = ()
    warnings: tuple[str, ...] = ()

    def covers(self, finding: Finding) -> bool:
        """Whether any comment silences `finding`."""
        return any(each.covers(finding) for each in self.comments)

    def covering(self, finding: Finding) -> list[Suppression]:
        """The comments that silence `finding`."""
        return [each for each in self.comments if each.covers(finding)]


def read(text: str, filename: str, cells: Sequence[Cell] = ()) -> Suppressions:
    """The suppressions in `text`: a script, or the `cells` of a notebook."""
    lowered = text.lower()
    letters = prefixes()
    noqa = "noqa" in lowered and any(each.lower() in lowered for each in letters)
    if not ("mpaudit" in lowered or noqa):
        return Suppressions()  # this takes a hundredth of the time
    if not gate(letters).search(text):
        return Suppressions()
    reading = _Reading(filename, text.count("\n") + text.count("\r") + 1)
    if not cells:
        reading.read(text, 0, 0, filename)
    for cell in cells:
        where = f"{filename}:cell {cell.number}"
        reading.read(text[cell.start : cell.end], cell.start, cell.row - 1, where)
    reading.close()
    return Suppressions(tuple(reading.found), tuple(reading.warnings))


class _Range(Struct):
    """A `disable` that has not been ended, for one of its words."""

    suppression: Suppression
    column: int
    where: str

    @property
    def word(self) -> str:
        """The code or name."""
        return self.suppression.words[0]

    def end(self, row: int) -> None:
        """Let it hold up to a row."""
        self.suppression.last = row


class _Reading(Struct):
    filename: str
    rows: int
    found: list[Suppression] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    open: list[_Range] = field(default_factory=list)

    def read(self, text: str, offset: int, above: int, where: str) -> None:
        """Read a text that stands at `offset` and below `above` rows of a longer one."""
        first = text.startswith("\ufeff")  # which is no part of the first line
        starts = [int(first), *(match.end() for match in _NEWLINE.finditer(text))]
        waiting: list[Suppression] = []  # alone on their lines; no code has followed yet
        speaking: list[Suppression] = []  # the statement below them has begun
        within = False  # a statement
        for token in tokens(text):
            row, column = token.start
            if token.type == tokenize.COMMENT:
                start = starts[row - 1]
                alone = not text[start : start + column].strip()
                for directive in directives(token.string, offset + start + column):
                    own = row + above
                    made = Suppression(directive, directive.words, own, own, own, alone)
                    if self._take(made, column, f"{where}:{row}") and alone:
                        waiting.append(made)
            elif token.type == tokenize.NEWLINE:
                for each in speaking:
                    each.last = row + above
                speaking, within = [], False
            elif token.type not in _NO_CODE:
                if not within:
                    self._dedent(column, row + above)
                for each in waiting:
                    each.first = each.last = row + above
                    if not within:
                        speaking.append(each)
                waiting, within = [], True
        self._dedent(0, len(starts) + above, inner=True)

    def close(self) -> None:
        """What is still open holds to the end."""
        for each in self.open:
            each.end(self.rows)
            self.warnings.append(
                f"{each.where}: `# mpaudit: disable[{each.word}]` is never ended by "
                f"`# mpaudit: enable[{each.word}]`; it holds to the end"
            )

    def _take(self, made: Suppression, column: int, where: str) -> bool:
        """Keep a directive; whether it speaks for the statement below it."""
        directive = made.directive
        kind = directive.kind
        shown = f"`{' '.join(directive.written.split())}`"
        if not directive.words:
            example = _EXAMPLE.format(kind.value)
            self.warnings.append(f"{where}: {shown} silences nothing: {example}")
            return False
        self.warnings += [f"{where}: {problem}" for problem in _unknown(directive)]
        if kind in (Kind.IGNORE, Kind.NOQA):
            self.found.append(made)
            return kind is Kind.IGNORE
        if not made.alone:
            self.warnings.append(f"{where}: {shown} counts on a line of its own only")
        elif kind is Kind.FILE:
            made.first, made.last = 1, self.rows
            self.found.append(made)
        elif kind is Kind.DISABLE:
            parts = [replace(made, words=(word,)) for word in directive.words]
            self.found += parts
            self.open += [_Range(part, column, where) for part in parts]
        else:
            self._enable(made, column, f"{where}: {shown}")
        return False

    def _enable(self, made: Suppression, column: int, shown: str) -> None:
        for word in made.directive.words:
            same = [e for e in self.open if e.column == column and _same(e.word, word)]
            if not same:
                self.warnings.append(f"{shown} ends no `disable[{word}]` of this indentation")
                continue
            same[-1].end(made.row)
            same[-1].suppression.ender = made.directive
            self.open.remove(same[-1])

    def _dedent(self, column: int, row: int, *, inner: bool = False) -> None:
        """End the ranges of blocks that code in `column` is no longer part of."""
        for each in [e for e in self.open if e.column > column or (inner and e.column)]:
            each.end(row - 1)
            self.open.remove(each)


def _same(one: str, other: str) -> bool:
    return one.lower() == other.lower() or (find(one) is not None and find(one) == find(other))


def _unknown(directive: Directive) -> Iterator[str]:
    for word in directive.words:
        if find(word) is None:
            close = nearest(word)
            hint = f"did you mean {close[0]!r}?" if close else "see `mpaudit rules`"
            name = "noqa" if directive.kind is Kind.NOQA else f"mpaudit: {directive.kind.value}"
            listed = f": {word}" if directive.kind is Kind.NOQA else f"[{word}]"
            yield f"`# {name}{listed}` names no rule; {hint}"


def tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    """The tokens up to where the text is no Python, which is a finding of its own."""
    lines = io.StringIO(text.removeprefix("\ufeff"), newline=None)
    try:
        yield from tokenize.generate_tokens(lines.readline)
    except (tokenize.TokenError, SyntaxError):
        return

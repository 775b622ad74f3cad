"""`# mpaudit: ignore[rule-name, MP104] a reason`: findings that the code's author has silenced.

The comment stands on the finding's first or last line, or on a line of its own above the statement.
Only comments count: a string that holds the same text silences nothing.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mpaudit.cell import Cell
from mpaudit.config import nearest
from mpaudit.finding import Finding
from mpaudit.rule import find

_GATE = re.compile(r"mpaudit\s*:", re.IGNORECASE)
_DIRECTIVE = re.compile(
    r"#\s*mpaudit\s*:\s*ignore\b\s*(?P<list>\[(?P<words>[^\]]*)\])?", re.IGNORECASE
)
_EXAMPLE = "name the rules, as in `# mpaudit: ignore[missing-scaler-update]`"
_NO_CODE = {tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


@dataclass(frozen=True, slots=True)
class Suppression:
    """One comment: the codes and names it lists, its own row, and the rows it speaks for.

    On a line of its own (`above`) it silences what begins in those rows, which are the statement
    below; behind code it silences what begins or ends in its own row.
    """

    words: tuple[str, ...]
    row: int
    first: int
    last: int
    above: bool

    def covers(self, finding: Finding) -> bool:
        """Whether the comment silences `finding`."""
        words = {word.lower() for word in self.words}
        if finding.code.lower() not in words and finding.name not in words:
            return False
        start, end = finding.span.start, finding.span.end
        if self.above:
            return self.first <= start.row <= self.last
        ends_above = end.column == 1 and end.row > start.row  # a span's end is exclusive
        return self.row in (start.row, end.row - ends_above)

    def below(self, rows: int) -> Suppression:
        """The same with as many rows above it."""
        return replace(self, row=self.row + rows, first=self.first + rows, last=self.last + rows)


@dataclass(frozen=True, slots=True)
class Suppressions:
    """What the comments of one text silence, and `warnings` about those that cannot silence."""

    comments: tuple[Suppression, ...] = ()
    warnings: tuple[str, ...] = ()

    def covers(self, finding: Finding) -> bool:
        """Whether any comment silences `finding`."""
        return any(each.covers(finding) for each in self.comments)


def read(text: str, filename: str, cells: Sequence[Cell] = ()) -> Suppressions:
    """The suppressions in `text`: a script, or the `cells` of a notebook, each for itself."""
    if not _GATE.search(text):
        return Suppressions()
    comments: list[Suppression] = []
    warnings: list[str] = []
    for piece, where, above in _pieces(text, filename, cells):
        for comment, bare in _comments(piece):
            if comment.words:
                comments.append(comment.below(above))
                problems = list(_unknown(comment.words))
            else:
                written = f"`# mpaudit: ignore{'' if bare else '[]'}`"
                problems = [f"{written} silences nothing: {_EXAMPLE}"]
            warnings += [f"{where}:{comment.row}: {problem}" for problem in problems]
    return Suppressions(tuple(comments), tuple(warnings))


def _pieces(text: str, filename: str, cells: Sequence[Cell]) -> Iterator[tuple[str, str, int]]:
    """What is read for itself, what it is called, and how many rows stand above it."""
    if not cells:
        yield text, filename, 0
    for cell in cells:
        yield text[cell.start : cell.end], f"{filename}:cell {cell.number}", cell.row - 1


def _unknown(words: tuple[str, ...]) -> Iterator[str]:
    for word in words:
        if find(word) is None:
            close = nearest(word)
            hint = f"did you mean {close[0]!r}?" if close else "see `mpaudit rules`"
            yield f"`# mpaudit: ignore[{word}]` names no rule; {hint}"


def _comments(text: str) -> Iterator[tuple[Suppression, bool]]:
    """Every suppression comment, and whether it lacks the list of rules."""
    waiting: list[tuple[re.Match[str], int]] = []  # alone on their lines; no code has followed yet
    speaking: list[tuple[re.Match[str], int, int]] = []  # the statement below them has begun
    within = False  # a statement
    for token in _tokens(text):
        row = token.start[0]
        if token.type == tokenize.COMMENT:
            if match := _DIRECTIVE.search(token.string):
                if token.line[: token.start[1]].strip():
                    yield _suppression(match, row, row, row, above=False)
                else:
                    waiting.append((match, row))
        elif token.type == tokenize.NEWLINE:
            for match, own, first in speaking:
                yield _suppression(match, own, first, row, above=True)
            speaking, within = [], False
        elif token.type not in _NO_CODE:
            for match, own in waiting:
                if within:
                    yield _suppression(match, own, row, row, above=True)
                else:
                    speaking.append((match, own, row))
            waiting, within = [], True
    for match, own in waiting:
        yield _suppression(match, own, own, own, above=True)


def _suppression(
    match: re.Match[str], row: int, first: int, last: int, *, above: bool
) -> tuple[Suppression, bool]:
    words = tuple(word for word in re.split(r"[\s,]+", match["words"] or "") if word)
    return Suppression(words, row, first, last, above), match["list"] is None


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    """The tokens up to where the text is no Python, which is a finding of its own."""
    lines = io.StringIO(text.removeprefix("\ufeff"), newline=None)
    try:
        yield from tokenize.generate_tokens(lines.readline)
    except (tokenize.TokenError, SyntaxError):
        return

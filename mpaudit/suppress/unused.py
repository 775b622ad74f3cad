"""Suppressions that silence nothing, and their removal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from mpaudit.config import UNUSED
from mpaudit.finding import Position, Problem, Span
from mpaudit.fix import Edit, Fix, Safety
from mpaudit.rule import Rule, find
from mpaudit.suppress.directive import Directive, Kind
from mpaudit.suppress.reading import Suppression, Suppressions

_CONSEQUENCE = "a mistake that is made there later goes unseen"
_LINE_END = re.compile(r"\r\n|\r|\n|\Z")

Used = set[tuple[int, str]]
"""Which word of which suppression (by `id`) has silenced a finding."""


def unused(
    suppressions: Suppressions,
    used: Used,
    text: str,
    filename: str,
    judged: Callable[[Suppression, Rule], bool],
) -> Iterator[tuple[Problem, Fix]]:
    """A problem for each comment with words that silence nothing, of those that can be judged."""
    groups: dict[Directive, list[Suppression]] = {}
    for each in suppressions.comments:
        groups.setdefault(each.directive, []).append(each)
    for directive, group in groups.items():
        if any(_rule_name(word) == UNUSED for word in directive.words):
            continue  # its author wants it kept
        idle: dict[str, Suppression] = {}
        for each in group:
            for word in each.words:
                rule = find(word)
                if rule is not None and (id(each), word) not in used and judged(each, rule):
                    idle[word] = each
        if idle:
            yield (
                _problem(directive, group[0].row, idle, text, filename),
                _fix(directive, idle, text),
            )


def _problem(
    directive: Directive, row: int, idle: dict[str, Suppression], text: str, filename: str
) -> Problem:
    written = f"`{' '.join(directive.written.split())}`"
    if len(idle) < len(directive.words):
        written = f"{', '.join(f'`{word}`' for word in idle)} in {written}"
    verb = "silences" if len(idle) in (1, len(directive.words)) else "silence"
    where = " in this file" if directive.kind is Kind.FILE else ""
    start = directive.stretch[0]
    column = start - _line_start(text, start) + 1
    span = Span(filename, Position(row, column), Position(row, column + len(directive.written)))
    return Problem(UNUSED, span, f"{written} {verb} nothing{where}", _CONSEQUENCE)


def _fix(directive: Directive, idle: dict[str, Suppression], text: str) -> Fix:
    removed = {directive: set(idle)}
    for word, each in idle.items():
        if each.ender is not None:
            same = {w for w in each.ender.words if _rule_name(w) == _rule_name(word)}
            removed.setdefault(each.ender, set()).update(same)
    edits = [_without(which, words, text) for which, words in removed.items()]
    return Fix("remove what silences nothing", tuple(edits), Safety.SAFE)


def _rule_name(word: str) -> str | None:
    rule = find(word)
    return rule.name if rule is not None else None


def _without(directive: Directive, words: set[str], text: str) -> Edit:
    """Take words out of a directive; the directive, its comment, its line with the last of them."""
    assert directive.listed is not None
    listed = re.split(r"[\s,]+", text[slice(*directive.listed)].strip(" \t,"))
    kept = [word for word in listed if word not in words]
    if kept:
        return Edit(*directive.listed, ", ".join(kept))
    start, end = directive.stretch
    line_end = _LINE_END.search(text, end)
    assert line_end is not None
    if text[end : line_end.start()].strip():
        return Edit(start, end, "")
    line_start = _line_start(text, start)
    code = text[line_start:start].rstrip()
    if code:
        return Edit(line_start + len(code), line_end.start(), "")
    return Edit(line_start, line_end.end(), "")


def _line_start(text: str, offset: int) -> int:
    return max(text.rfind("\n", 0, offset), text.rfind("\r", 0, offset)) + 1

"""The problems of files that were followed together, and what they depend on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpaudit.finding import Position, Problem, Related, Span
from mpaudit.fix import Edit, Fix, Safety

Found = tuple[Problem, Fix | None]


@dataclass(slots=True)
class Record:
    """One group of files.

    `audited` are the names of its files, with what each was audited as; `read` the digests of all files
    that were read, by absolute path, with the name under which the user asked for them, if he did;
    `settings` their settings as far as they matter. `there` and `absent` are the names in folders whose
    existence was asked for; `requirements` the digest of the statements around each folder, `roots`
    that of all scripts in folders.
    `exhausted` are files that could not be followed to their end, with the parts in question.
    """

    audited: dict[str, str] = field(default_factory=dict)
    read: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    there: dict[str, list[str]] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=dict)
    requirements: dict[str, str] = field(default_factory=dict)
    roots: dict[str, str] = field(default_factory=dict)
    problems: list[Found] = field(default_factory=list)
    exhausted: dict[str, list[str]] = field(default_factory=dict)

    def awaited(self) -> Iterable[str]:
        """The paths whose existence mattered."""
        for folders in (self.there, self.absent):
            for folder, names in folders.items():
                yield from (os.path.join(folder, name) for name in names)  # noqa: PTH118

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "audited": self.audited,
            "read": {path: list(each) for path, each in self.read.items()},
            "settings": self.settings,
            "there": self.there,
            "absent": self.absent,
            "requirements": self.requirements,
            "roots": self.roots,
            "problems": [[_plain_problem(p), _plain_fix(f)] for p, f in self.problems],
            "exhausted": self.exhausted,
        }

    @classmethod
    def of_plain(cls, row: Mapping[str, Any]) -> Record:
        """From JSON. Raises ValueError, TypeError or KeyError for anything else."""
        return cls(
            dict(row["audited"]),
            {path: (seen, name) for path, (seen, name) in row["read"].items()},
            dict(row["settings"]),
            dict(row["there"]),
            dict(row["absent"]),
            dict(row["requirements"]),
            dict(row["roots"]),
            [(_problem(p), _fix(f)) for p, f in row["problems"]],
            {name: list(parts) for name, parts in row["exhausted"].items()},
        )


@dataclass(slots=True)
class World:
    """What records are compared with: the files as they are now.

    `roles` are the names of the files to be audited, with what each is audited as; `names` those of all
    files that the user asked for, by absolute path.
    """

    roles: Mapping[str, str]
    names: Mapping[str, str]
    digest: Callable[[str], str | None]
    settings: Callable[[str], str]
    requirements: Callable[[str], str]
    scripts: Callable[[str], str]
    _listed: dict[str, frozenset[str]] = field(default_factory=dict)

    def holds(self, record: Record) -> bool:
        """Whether all that a record depends on is as it was."""
        return (
            all(self.roles.get(name) == role for name, role in record.audited.items())
            and all(self.settings(path) == each for path, each in record.settings.items())
            and all(
                self.digest(path) == seen and self.names.get(path) == name
                for path, (seen, name) in record.read.items()
            )
            and all(self.requirements(each) == seen for each, seen in record.requirements.items())
            and all(self.exists(f, name) for f, names in record.there.items() for name in names)
            and not any(
                self.exists(f, name) for f, names in record.absent.items() for name in names
            )
        )

    def exists(self, folder: str, name: str) -> bool:
        """Whether a folder holds something of that name; its listing is read once."""
        listed = self._listed.get(folder)
        if listed is None:
            try:
                listed = frozenset(os.listdir(folder))  # noqa: PTH208 - names are all that is asked
            except OSError:
                listed = frozenset()
            self._listed[folder] = listed
        return name in listed and os.path.exists(f"{folder}/{name}")  # noqa: PTH110 - a dead link


def by_folder(paths: Iterable[str]) -> dict[str, list[str]]:
    """The names of paths, by folder."""
    found: dict[str, list[str]] = {}
    for path in sorted(paths):
        folder, name = os.path.split(path)
        found.setdefault(folder, []).append(name)
    return found


def _plain_problem(problem: Problem) -> list[Any]:
    return [
        problem.rule,
        _plain_span(problem.span),
        problem.message,
        problem.consequence,
        [[_plain_span(each.span), each.message] for each in problem.related],
        [list(each) for each in problem.subjects],
    ]


def _problem(row: Sequence[Any]) -> Problem:
    rule, span, message, consequence, related, subjects = row
    return Problem(
        str(rule),
        _span(span),
        str(message),
        str(consequence),
        tuple(Related(_span(each), str(said)) for each, said in related),
        tuple((str(kind), str(word)) for kind, word in subjects),
    )


def _plain_span(span: Span) -> list[Any]:
    start, end = span.start, span.end
    return [span.filename, start.row, start.column, end.row, end.column, span.cell]


def _span(row: Sequence[Any]) -> Span:
    name, row_, column, end_row, end_column, cell = row
    start, end = Position(int(row_), int(column)), Position(int(end_row), int(end_column))
    return Span(str(name), start, end, None if cell is None else int(cell))


def _plain_fix(fix: Fix | None) -> list[Any] | None:
    if fix is None:
        return None
    return [fix.message, [[e.start, e.end, e.content] for e in fix.edits], fix.safety.value]


def _fix(row: Sequence[Any] | None) -> Fix | None:
    if row is None:
        return None
    message, edits, safety = row
    made = tuple(Edit(int(start), int(end), str(content)) for start, end, content in edits)
    return Fix(str(message), made, Safety(safety))

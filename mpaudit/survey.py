"""Which of the found files are to be audited, and what is known of them from earlier checks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

from mpaudit.cache.glance import Glance, Glances, digest
from mpaudit.cache.record import Record, World, by_folder
from mpaudit.cache.store import Kept, Store
from mpaudit.config import UNREADABLE
from mpaudit.finding import Position, Problem, Span
from mpaudit.following import IMPORTER, MODULE, NAMED, Batch, Found, Group, take
from mpaudit.report import count
from mpaudit.settings import Configuration
from mpaudit.source.text.config_file import named_in
from mpaudit.source.text.discovery import concerns, importers, imports, silences
from mpaudit.source.text.document import Document, Script, read
from mpaudit.source.text.parsing import UnparsableError
from mpaudit.source.text.project import Project
from mpaudit.source.text.requirement import statements
from mpaudit.source.text.surrounding import scripts

LEAST = 10
"""Files to be audited below which nothing is gained by a second process."""
LEAST_APART = 100
"""The same, for processes that begin by themselves and know nothing."""
MAX_ROUNDS = 3
"""Rounds in which files that are followed anew may reach files of records; then all are followed."""


Followed = tuple[list[Group], dict[str, Document]]


class Started(Protocol):
    """The pass over files that a survey is made for."""

    configuration: Configuration

    def project(self, paths: Iterable[Path]) -> Project:
        """A project in which nothing is read yet, and files are known by the names they have here."""
        ...

    def widened(self, filename: str) -> bool:
        """Whether rules may be on in a file that are off by default."""
        ...


class Survey:
    """One look at all files of a check.

    `roles` are the names of the files to be audited, in order, with what each is audited as;
    `unreadable` the problems of those that cannot be opened.
    """

    def __init__(
        self, found: Sequence[Path], paths: Sequence[Path], store: Store | None, jobs: int
    ) -> None:
        explicit = set(paths)
        self.folders = [os.path.abspath(path) for path in paths if path.is_dir()]  # noqa: PTH100
        self.jobs = jobs
        self.found = found
        self.store = store
        self.kept = store.load() if store is not None else Kept()
        named = {os.path.abspath(path) for path in paths}  # noqa: PTH100
        self.glances = Glances(self.kept.glances, _look, named)
        self.names = {os.path.abspath(path): str(path) for path in found}  # noqa: PTH100
        self.absolute = {name: path for path, name in self.names.items()}
        self.roles: dict[str, str] = {}
        self.mentioning: list[str] = []
        self.unreadable: list[Problem] = []
        others: list[Path] = []
        for path in found:
            self._sort(path, others, named=path in explicit)
        gated = sorted(Path(name) for name, role in self.roles.items() if role == MODULE)
        for path in importers(gated, others, self._imports):
            self.roles[str(path)] = IMPORTER
        self.roles = {name: self.roles[name] for name in map(str, found) if name in self.roles}

    def _sort(self, path: Path, others: list[Path], *, named: bool) -> None:
        name = str(path)
        try:
            seen = self.glances.of(self.absolute[name])
        except OSError as problem:
            start = Position(1, 1)
            kind = "folder" if path.is_dir() else "file"
            reason = f"the {kind} cannot be read: {problem.strerror}"
            self.unreadable.append(Problem(UNREADABLE, Span(name, start, start), reason))
            return
        if seen.mentions:
            self.mentioning.append(name)
        if seen.concerns:
            self.roles[name] = MODULE
        else:
            others.append(path)
            if named:
                self.roles[name] = NAMED

    def referring(self) -> Iterator[tuple[Path, str]]:
        """The names of configurations that files mention, each with the file."""
        for path in self.found:
            for name in self._referred(path):
                yield path, name

    def _referred(self, path: Path) -> tuple[str, ...]:
        try:
            return self.glances.of(self.absolute[str(path)]).configs
        except OSError:
            return ()

    def _imports(self, path: Path) -> bytes | None:
        found = self.glances.of(self.absolute[str(path)]).imports
        return None if found is None else found.encode("latin-1")

    def followed(self, started: Started) -> tuple[list[Group | Record], dict[str, Document]]:
        """All groups of the files to be audited: as they were recorded where that still holds.

        Also the texts that had to be read for that.
        """
        configuration = started.configuration
        world = World(
            self.roles,
            self.names,
            self.glances.digest,
            cache(lambda path: _settings(path, configuration)),
            lambda folder: statements(Path(folder)),
            cache(self._scripts),
        )
        records = [each for each in self.kept.records if world.holds(each)]
        for rounds in range(MAX_ROUNDS):
            covered = {name for each in records for name in each.audited}
            fresh = [each for each in self.roles.items() if each[0] not in covered]
            groups, documents = self._follow(fresh, started)
            reached = {path for group in groups for path in group.read}
            kept = [each for each in records if reached.isdisjoint(each.read)]
            if len(kept) == len(records):
                break
            records = kept if rounds < MAX_ROUNDS - 2 else []
        self._save(records, groups, world)
        return [*records, *groups], documents

    def remarks(self, groups: Iterable[Group | Record]) -> Iterator[str]:
        """How many files there were, and how many of them had to be followed."""
        kept = sum(len(each.audited) for each in groups if isinstance(each, Record))
        concerned = f"{len(self.roles)} of {count(len(self.found), 'file')} may concern a rule"
        known = f"; what is in {kept} of them was known from the cache" if kept else ""
        yield f"{concerned}{known}"

    def _scripts(self, root: str) -> str:
        """A digest of all scripts in a folder, as far as they are looked at."""
        paths = scripts(Path(root))
        if paths is None:
            return "too many"
        rows = (f"{path} {self.glances.digest(str(path))}" for path in paths)
        return digest("\n".join(rows).encode(errors="surrogateescape"))

    def _follow(self, fresh: Sequence[tuple[str, str]], started: Started) -> Followed:
        """The groups of files that nothing is known of: in several processes, where that is worth it."""
        several = self.jobs > 1 and len(fresh) >= LEAST
        if several:
            from mpaudit import beside, parts

            several = parts.possible()
        if several and len(fresh) >= LEAST_APART:
            cuts = parts.cut(fresh, self.folders)
            if len(cuts) > 1:
                work = parts.Work(list(map(str, self.found)), started.configuration)
                self.glances.fresh.clear()
                return parts.followed(cuts, work, self.jobs), {}
        batch = Batch(started.project(self.found), started.widened)
        for name, role in fresh:
            take(batch, name, role, self.glances.fresh.pop(self.absolute[name], None))
        groups = beside.followed(fresh, batch) if several else batch.follow()
        return groups, batch.documents

    def _save(self, records: Sequence[Record], groups: Sequence[Group], world: World) -> None:
        if self.store is None:
            return
        made = [_recorded(group, world) for group in groups]
        now = self.glances.current()
        stamped = all(now.get(path) == each for path, each in self.kept.glances.items())
        if not made and stamped and len(now) == len(self.kept.glances):
            return
        mine = set(self.roles)
        looked_at = set(self.names)
        others = [
            each
            for each in self.kept.records
            if mine.isdisjoint(each.audited)
            and not any(path in looked_at for path in each.read)
            and all(Path(name).exists() for name in each.audited)
        ]
        glances = {p: g for p, g in self.kept.glances.items() if p not in now and Path(p).exists()}
        self.store.save(Kept({**glances, **now}, [*records, *made, *others]))

    def wanted(self, problems: Iterable[Found]) -> Iterator[str]:
        """The files whose text is needed: for their comments, or to show what is wrong in them."""
        yield from self.mentioning
        unread = {problem.span.filename for problem in self.unreadable}
        for problem, _ in problems:
            if problem.span.filename in unread:
                continue
            for span in (problem.span, *(each.span for each in problem.related)):
                if span.filename in self.roles or span == problem.span:
                    if span.filename in self.absolute:
                        yield span.filename


def _look(path: str, data: bytes) -> Glance:
    concerned = concerns(data)
    if concerned and path.endswith(".ipynb"):
        try:
            document = read(data, path)
        except UnparsableError:
            pass
        else:  # what concerns us in a notebook may be in its outputs only
            text = document.text.encode("utf-8", "replace")
            concerned = isinstance(document, Script) or concerns(text)
    found = None if concerned else imports(data, os.path.basename(path))  # noqa: PTH119
    words = None if found is None else found.decode("latin-1")
    return Glance(digest(data), concerned, silences(data), words, named_in(data))


def _settings(path: str, configuration: Configuration) -> str:
    """What of a file's settings decides what is looked for in it."""
    target = configuration.of(Path(path)).target
    return f"{target.torch} {target.keras} {configuration.rules(path).widened}"


def _recorded(group: Group, world: World) -> Record:
    there = {p for p in group.asked if world.exists(*os.path.split(p))}
    folders = {os.path.dirname(path) for path in group.read}  # noqa: PTH120
    return Record(
        {name: world.roles[name] for name in group.names},
        {path: (world.digest(path), world.names.get(path)) for path in sorted(group.read)},
        {path: world.settings(path) for path in sorted(group.read)},
        by_folder(there),
        by_folder(group.asked - there),
        {folder: world.requirements(folder) for folder in sorted(folders)},
        {root: world.scripts(root) for root in sorted(group.roots)},
        group.problems,
        group.exhausted,
    )

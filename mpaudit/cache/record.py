"""The problems of files that were followed together, and what they depend on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct, field

from mpaudit.finding import Problem
from mpaudit.fix import Fix

Found = tuple[Problem, Fix | None]


class Record(Struct):
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


class World(Struct):
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

"""Files cut into parts that have nothing to do with each other, and followed side by side.

Where the cuts are is a guess from folders and import lines: a part is what lies in one folder below the
checked ones, with what it seems to import. Whether a cut was right is seen afterwards, from what each
part has really read: what has read a file in common is one group, and is followed again, together, where
that can change anything (`mpaudit.meeting`). So the groups are those that one engine would have found.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct, field

from mpaudit.extension import registry
from mpaudit.extension.loading import load
from mpaudit.following import Batch, Group
from mpaudit.meeting import concerned, joined
from mpaudit.settings import Configuration
from mpaudit.source.text.foreign import foreign
from mpaudit.source.text.project import Project

_IMPORTED = re.compile(
    rb'^[ \t]*"?(?:from[ \t]+([\w.]+)[ \t]+import\b|import[ \t]+([\w., \t]+))', re.MULTILINE
)
_LEVELS = 8
BUNDLE = 50_000
"""Bytes of text up to which parts are followed in one process: to begin one takes longer."""

Roles = Sequence[tuple[str, str]]
"""Names of files, with what each is audited as."""


def cut(roles: Roles, folders: Sequence[str]) -> list[list[tuple[str, str]]]:
    """The parts of files that lie in `folders` (absolute), each in the order of the files."""
    homes = {name: home(os.path.abspath(name), folders) for name, _ in roles}  # noqa: PTH100
    leader = {home: home for home in homes.values()}

    def found(home: str) -> str:
        while leader[home] != home:
            leader[home] = leader[leader[home]]
            home = leader[home]
        return home

    there = _There()
    for name, _ in roles:
        for path in there.imported(os.path.abspath(name)):  # noqa: PTH100
            other = home(path, folders)
            if other in leader:
                leader[found(other)] = found(homes[name])
    parts: dict[str, list[tuple[str, str]]] = {}
    for name, role in roles:
        parts.setdefault(found(homes[name]), []).append((name, role))
    return list(parts.values())


def home(path: str, folders: Sequence[str]) -> str:
    """The folder below a checked one that a file lies in, or the file itself."""
    for folder in folders:
        if path.startswith(folder + os.sep):
            first, _, rest = path[len(folder) + 1 :].partition(os.sep)
            return os.path.join(folder, first) if rest else path  # noqa: PTH118
    return path


class _There(Struct):
    """What there is to be imported, as far as folders tell."""

    known: dict[str, bool] = field(default_factory=dict)

    def imported(self, path: str) -> Iterator[str]:
        """What the imports of a file may mean, in the folders above it."""
        try:
            data = Path(path).read_bytes()
        except OSError:
            return
        words = (one or other for one, other in _IMPORTED.findall(data))
        tops = {
            each.strip().split(b".")[0].decode("ascii", "ignore").split(" ")[0]
            for word in words
            for each in word.split(b",")
        }
        tops = {top for top in tops if top and not foreign(top)}
        here = os.path.dirname(path)  # noqa: PTH120
        for _ in range(_LEVELS):
            for top in tops:
                for candidate in (f"{here}/{top}", f"{here}/{top}.py", f"{here}/src/{top}"):
                    if self._exists(candidate):
                        yield candidate
            above = os.path.dirname(here)  # noqa: PTH120
            if above == here:
                return
            here = above

    def _exists(self, path: str) -> bool:
        if path not in self.known:
            self.known[path] = os.path.exists(path)  # noqa: PTH110 - it is asked very often
        return self.known[path]


class Work:
    """What a process needs to know: the names of all files, and the settings."""

    def __init__(self, names: Sequence[str], configuration: Configuration) -> None:
        self._names = names
        self._configuration = configuration
        self._project: Project | None = None
        self._plugins = [(each.name, each.folder) for each in registry.loaded()]

    def begin(self) -> None:
        """Have at hand what all parts need: the plugins, the engine, and where files are."""
        for name, folder in self._plugins:
            load(name, folder)
        importlib.import_module("mpaudit.execution")
        self._project = Project(lambda path: self._configuration.of(path).target)
        for name in self._names:
            self._project.add(Path(name))

    def groups(self, roles: Roles) -> list[Group]:
        """The groups of some files; `begin` comes first."""
        assert self._project is not None
        batch = Batch(self._project, lambda name: self._configuration.rules(name).widened)
        return batch.anew(roles).follow()


def followed(parts: Sequence[Roles], work: Work, processes: int) -> list[Group]:
    """The groups of all parts, in the order of their files."""
    roles = dict(pair for part in parts for pair in part)
    position = {name: number for number, name in enumerate(roles)}
    method = "fork" if forks() else "spawn"
    if method == "fork":  # each process has at once what is there now; another begins by itself
        _begin(work)
    begin = None if method == "fork" else partial(_begin, work)
    context = multiprocessing.get_context(method)
    crew = min(processes, len(parts))
    groups: list[Group] = []
    waiting = bundled(sorted(parts, key=size, reverse=True))
    with context.Pool(crew, begin, maxtasksperchild=1) as pool:  # then its memory is free
        while waiting:
            groups += (each for found in pool.imap(_run, waiting, chunksize=1) for each in found)
            again = concerned(groups)
            mended = {id(group) for each in again for group in each}
            groups = [group for group in groups if id(group) not in mended]
            waiting = [_in_order(each, roles, position) for each in again]
    return joined(groups, position)


def _in_order(
    groups: Sequence[Group], roles: Mapping[str, str], position: Mapping[str, int]
) -> Roles:
    names = sorted((n for group in groups for n in group.names), key=position.__getitem__)
    return [(name, roles[name]) for name in names]


_work: list[Work] = []
"""Of this process: what `_begin` was told."""


def _begin(work: Work) -> None:
    work.begin()
    _work[:] = [work]


def _run(part: Roles) -> list[Group]:
    return _work[0].groups(part)


def bundled(parts: Sequence[Roles]) -> list[Roles]:
    """Small parts put together, so that each process has something to do; `parts` from the largest."""
    bundles: list[list[tuple[str, str]]] = []
    filled = BUNDLE
    for part in parts:
        more = size(part)
        if filled + more > BUNDLE:
            bundles.append([])
            filled = 0
        bundles[-1].extend(part)
        filled += more
    return list(bundles)


def size(part: Roles) -> int:
    """The bytes of the files of a part."""
    total = 0
    for name, _ in part:
        try:
            total += os.path.getsize(name)  # noqa: PTH202
        except OSError:
            continue
    return total


def possible() -> bool:
    """Whether processes can share a lock: they cannot where there is no shared memory."""
    try:
        multiprocessing.Lock()
    except (ImportError, OSError):
        return False
    return True


def forks() -> bool:
    """Whether a process begins as a copy, all modules loaded; where threads run that is not safe."""
    return threading.active_count() == 1 and sys.platform.startswith("linux")

"""Files that may have to do with each other, followed from both ends by two processes.

Files that have nothing to do with each other may be followed apart (`mpaudit.meeting`); whether they have
shows as they are followed. So the first process follows the files in their order. The second takes the
last folder, then the one before that, each for itself, and tells what it touches. What it found in a
folder counts where nothing of that was touched outside of it. Where something was, the second is given up,
and the first goes on as if it had been alone: all that was lost is what another core did meanwhile.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
from collections.abc import Sequence
from itertools import groupby
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, ForkProcess
from time import perf_counter

from msgspec import Struct, field

from mpaudit.following import Batch, Group, Turns
from mpaudit.meeting import concerned, joined
from mpaudit.parts import BUNDLE, Roles, forks, home, size

PATIENCE = 0.5
"""For how much of the time that it has worked the first process waits for what the second has begun."""

HELD = 1.0
"""Seconds after which the second process has ended with the table in its hands."""


def followed(roles: Roles, batch: Batch) -> list[Group]:
    """The groups of the files of a batch, which are `roles`, in their order."""
    folders = by_folder(roles) if forks() and size(roles) >= 2 * BUNDLE else []
    if len(folders) < 2:
        return batch.follow()
    importlib.import_module("mpaudit.execution")  # not once in each
    context = multiprocessing.get_context("fork")
    told, tell = context.Pipe(duplex=False)
    table = _Table(context, len(folders))
    second = context.Process(target=_second, args=(batch, folders, table, tell), daemon=True)
    second.start()
    tell.close()
    first = _First(folders, table, told, second)
    try:
        groups = [*batch.follow(first), *first.groups]
    finally:
        second.kill()
        second.join()
        told.close()
    if concerned(groups):  # what one has touched showed only later
        return batch.anew(roles).follow()
    return joined(groups, {name: number for number, (name, _) in enumerate(roles)})


def by_folder(roles: Roles) -> list[Roles]:
    """The files in their order, cut where the folder changes."""
    paths = {name: os.path.abspath(name) for name, _ in roles}  # noqa: PTH100 - for each file
    base = os.path.commonpath([os.path.dirname(path) for path in paths.values()])  # noqa: PTH120
    return [list(part) for _, part in groupby(roles, lambda role: home(paths[role[0]], [base]))]


class _Table:
    """Where both see which folders are taken: the first ones by one process, the last by the other."""

    def __init__(self, context: ForkContext, folders: int) -> None:
        self._lock = context.Lock()
        self._taken = context.RawArray("i", [0, folders])

    def first(self, number: int) -> bool:
        """Take a folder from the front; whether the other has not taken it before, or holds the table."""
        if not self._lock.acquire(timeout=HELD):
            return False
        free: bool = number < self._taken[1]
        if free:
            self._taken[0] = number + 1
        self._lock.release()
        return free

    def last(self) -> int | None:
        """Take the last folder that is free; None if none is."""
        with self._lock:
            if self._taken[1] <= self._taken[0]:
                return None
            self._taken[1] -= 1
            return int(self._taken[1])


class _Told(Struct):
    """What the second process has said of a folder: what it touches, and in the end what was found."""

    touched: set[str] = field(default_factory=set)
    groups: list[Group] | None = None


class _First(Turns):
    """The process that began: it hears of the second's folders, and decides on each when its turn comes."""

    def __init__(
        self, folders: Sequence[Roles], table: _Table, told: Connection, second: ForkProcess
    ) -> None:
        self.groups: list[Group] = []
        """What the second found, as far as it counts."""
        self._number = {name: at for at, part in enumerate(folders) for name, _ in part}
        self._table = table
        self._connection = told
        self._second = second
        self._began = perf_counter()
        self._told: dict[int, _Told] = {}
        self._mine: set[str] = set()
        """What was touched of folders that are decided on."""
        self._decided: dict[int, bool] = {}
        self._hearing = True

    def takes(self, name: str) -> bool:
        """Whether a file is followed here, when its turn comes."""
        number = self._number[name]
        if number not in self._decided:
            free = self._hearing and self._table.first(number)
            self._decided[number] = free or not self._accepted(number)
        return self._decided[number]

    def touched(self, files: set[str]) -> None:
        """Note what following a file has touched, and hear what the other has."""
        self._mine |= files
        self._hear(0)
        self._compare()

    def _accepted(self, number: int) -> bool:
        """Whether what the second finds in a folder counts; it has begun with it."""
        now = perf_counter()
        until = now + PATIENCE * (now - self._began)
        while self._hearing and not self._complete(number):
            if not self._hear(max(until - perf_counter(), 0)):
                self._give_up()
            self._compare()
        if not self._complete(number):
            return False
        found = self._told.pop(number)
        self.groups += found.groups or ()
        self._mine |= found.touched
        return True

    def _complete(self, number: int) -> bool:
        return number in self._told and self._told[number].groups is not None

    def _compare(self) -> None:
        """Drop what two have touched, or what both have; the other is given up then."""
        seen: dict[str, int] = {}
        wrong = {number for number, each in self._told.items() if each.touched & self._mine}
        for number, each in self._told.items():
            for path in each.touched:
                if seen.setdefault(path, number) != number:
                    wrong |= {number, seen[path]}
        for number in wrong:
            del self._told[number]
        if wrong:
            self._give_up()

    def _give_up(self) -> None:
        self._hearing = False
        self._second.kill()

    def _hear(self, seconds: float) -> bool:
        """Take what was told; whether something was."""
        heard = False
        try:
            while self._hearing and self._connection.poll(0 if heard else seconds):
                number, said = self._connection.recv()
                heard = True
                told = self._told.setdefault(number, _Told())
                if isinstance(said, list):
                    told.groups = said
                else:
                    told.touched |= said
        except (EOFError, OSError):
            # It is through; or it failed, at what this one will meet as well.
            self._hearing = False
        return heard


class _Second(Turns):
    """The second process, in one folder: it tells what it touches."""

    def __init__(self, number: int, tell: Connection) -> None:
        self._number = number
        self._tell = tell

    def touched(self, files: set[str]) -> None:
        """Tell what following a file has touched."""
        self._tell.send((self._number, files))


def _second(batch: Batch, folders: Sequence[Roles], table: _Table, tell: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first ends it
    while (number := table.last()) is not None:
        part = batch.anew(folders[number])
        tell.send((number, part.follow(_Second(number, tell))))

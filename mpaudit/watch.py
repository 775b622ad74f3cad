"""Checking again and again: whenever a file changes that the last answer rests on."""

# Paths stay texts here: there may be ten thousand of them, several times a second.
# ruff: noqa: PTH100, PTH112, PTH116, PTH118, PTH120, PTH208

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mpaudit.errors import MpauditError
from mpaudit.settings.exclusion import Exclusion
from mpaudit.source.text.discovery import files

if TYPE_CHECKING:
    from mpaudit.check_command import Outcome, Wanted

SHORTEST = 0.25
"""Seconds between two looks at the files."""
_SHARE = 3
"""A look takes a fourth of the time at most: on a large tree there are fewer of them."""
_BESIDE = re.compile(
    r"\.?mpaudit\.toml|pyproject\.toml|setup\.(cfg|py)|requirements.*\.txt|environment.*\.ya?ml"
    r"|\.(git)?ignore"
)
"""What stands beside or above a file and has a say in how it is checked."""
_CLEARED = "\x1b[H\x1b[2J\x1b[3J"

Stamp = tuple[int, int, int] | None
"""When a file was written, its size, its inode; None where there is none."""


class Watch:
    """Runs `once` now, and again after every change, until it is interrupted.

    `asked` reads options and configuration anew, for they may have changed too; what is then wrong
    goes to `failed`, as what a check raises, and the watch goes on.
    """

    def __init__(
        self,
        once: Callable[[Wanted], Outcome],
        asked: Callable[[], Wanted],
        failed: Callable[[str, int], object],
    ) -> None:
        self._once = once
        self._asked = asked
        self._failed = failed
        self._rests_on: frozenset[str] = frozenset()

    def run(self, wanted: Wanted) -> None:
        """Watch, until Ctrl-C. Raises MpauditError for what is wrong at the very start."""
        try:
            self._say(wanted, "Watching; Ctrl-C ends it.")
            seen = self._look(wanted)
            self._check(wanted, seen)
            while True:
                seen = self._changed(wanted, seen)
                try:
                    wanted = self._asked()
                    if sys.stdout.isatty() and not wanted.silent:
                        sys.stdout.write(_CLEARED)
                    self._say(wanted, "A file has changed.")
                    self._check(wanted, seen)
                except MpauditError as problem:
                    self._failed(str(problem), problem.exit_code)
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                sys.stderr.write("\n")

    def _check(self, wanted: Wanted, seen: dict[str, Stamp]) -> None:
        began = time.time_ns()
        outcome = self._once(wanted)
        for path in map(os.path.abspath, outcome.written):  # our own doing is no change
            if path in seen:
                seen[path] = _stamp(path)
        sys.stdout.flush()
        self._rests_on = outcome.rests_on
        for path in {*outcome.rests_on, *_beside(outcome.rests_on)} - seen.keys():
            stamp = _stamp(path)  # now known to matter; it may have changed since it was read
            seen[path] = stamp if stamp is None or stamp[0] < began else None

    def _changed(self, wanted: Wanted, seen: dict[str, Stamp]) -> dict[str, Stamp]:
        """Wait until the files are no longer as they were seen; how they are then."""
        took = 0.0
        while True:
            time.sleep(max(SHORTEST, _SHARE * took))
            began = time.perf_counter()
            now = self._look(wanted)
            took = time.perf_counter() - began
            if now != {path: seen.get(path) for path in now} or seen.keys() - now.keys():
                return now

    def _look(self, wanted: Wanted) -> dict[str, Stamp]:
        """All that the answer may rest on, as it is now."""
        paths = {str(each.absolute()) for each in wanted.paths or (Path(),)}
        try:
            left_out = Exclusion(wanted.configuration)
            paths |= {os.path.abspath(each) for each in files(wanted.paths or (Path(),), left_out)}
        except MpauditError:  # a path is gone: its coming back is the change that is waited for
            pass
        paths |= self._rests_on
        paths |= {str(each) for each in wanted.configuration.origins()}
        if wanted.baseline:
            paths.add(os.path.abspath(wanted.baseline))
        return {path: _stamp(path) for path in (*paths, *_beside(paths))}

    def _say(self, wanted: Wanted, line: str) -> None:
        if not wanted.quiet and not wanted.silent:
            print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)


def _beside(paths: Iterable[str]) -> Iterable[str]:
    """The files in and above the folders of some paths that say how they are checked."""
    folders = {os.path.dirname(path) for path in paths}
    waiting = list(folders)
    while waiting:
        above = os.path.dirname(waiting.pop())
        if above not in folders:
            folders.add(above)
            waiting.append(above)
    for folder in folders:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        yield from (os.path.join(folder, name) for name in names if _BESIDE.fullmatch(name))
        if "requirements" in names:
            inner = os.path.join(folder, "requirements")
            yield from (os.path.join(inner, name) for name in _listed(inner))


def _listed(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.endswith(".txt")]
    except OSError:
        return []


def _stamp(path: str) -> Stamp:
    """The state of a file; of a folder only that it is there, for what lies in it is looked at itself."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    if os.path.isdir(path):
        return 0, 0, state.st_ino
    return state.st_mtime_ns, state.st_size, state.st_ino

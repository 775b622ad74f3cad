"""What the bytes of one file say, without parsing it."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Container
from hashlib import blake2b

from msgspec import Struct
from msgspec.structs import replace

SETTLED = 2_000_000_000
"""Nanoseconds after which a change of a file shows in its times, on any file system."""


class Glance(Struct, frozen=True, array_like=True):
    """One file's content: its digest, whether it `concerns` a rule, whether it may silence one.

    `imports` is what it imports, if it trains or passes that on, byte for byte; else None. `configs` are
    the configurations of DeepSpeed that it names.
    `stamp` is the file's state when it was read, or () where that tells nothing.
    """

    digest: str
    concerns: bool
    mentions: bool
    imports: str | None = None
    configs: tuple[str, ...] = ()
    stamp: tuple[int, ...] = ()


def digest(data: bytes) -> str:
    """A name for a content."""
    return blake2b(data, digest_size=16).hexdigest()


class Glances:
    """Glances at files by their absolute path; a file that is as it was is not read again.

    What is no file but a pipe, or a device, is read only if the user has `named` it.
    """

    def __init__(
        self,
        known: dict[str, Glance],
        look: Callable[[str, bytes], Glance],
        named: Container[str] = (),
    ) -> None:
        self.named = named
        self.known = known
        self.look = look
        self.fresh: dict[str, bytes] = {}
        """What was read in this run, for whoever parses it."""
        self._now: dict[str, Glance | None] = {}

    def of(self, path: str) -> Glance:
        """What is known of a file. Raises OSError where it cannot be read."""
        found = self._now.get(path)
        if found is None:
            found = self._now[path] = self._looked(path)
        return found

    def digest(self, path: str) -> str | None:
        """The name of a file's content, None if it cannot be read."""
        if path not in self._now:
            try:
                self._now[path] = self._looked(path)
            except OSError:
                self._now[path] = None
        found = self._now[path]
        return None if found is None else found.digest

    def current(self) -> dict[str, Glance]:
        """The glances of this run."""
        return {path: found for path, found in self._now.items() if found is not None}

    def _looked(self, path: str) -> Glance:
        known = self.known.get(path)
        state = os.stat(path)  # noqa: PTH116 - it is asked for every file
        if not stat.S_ISREG(state.st_mode) and path not in self.named:
            if stat.S_ISDIR(state.st_mode):
                os.listdir(path)  # noqa: PTH208 - it says why it cannot be read
            raise OSError(errno.EINVAL, "it is no regular file")
        stamp: tuple[int, ...] = (state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino)
        if known is not None and known.stamp == stamp:
            return known
        began = time.time_ns()
        data = _read(path)
        if began - max(stamp[0], stamp[1]) < SETTLED:
            stamp = ()  # it may change again without its times showing it
        if known is not None and known.digest == digest(data):
            return replace(known, stamp=stamp)
        found = replace(self.look(path, data), stamp=stamp)
        if found.concerns:
            self.fresh[path] = data
        return found


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - as above
        return file.read()

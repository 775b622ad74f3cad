"""The file in which glances and records are kept."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from msgspec import MsgspecError, Struct, field, json

from mpaudit import __version__
from mpaudit.cache.glance import Glance, digest
from mpaudit.cache.record import Record
from mpaudit.extension import registry

FOLDER = ".mpaudit_cache"
_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of mpaudit; it can be deleted.\n"


class Kept(Struct):
    """What a store holds."""

    glances: dict[str, Glance] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)


class Store:
    """The cache of the checks that are run from one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        here = digest(os.fsencode(Path.cwd()))[:16]
        self.file = folder / f"{here}.json"

    def load(self) -> Kept:
        """What is known; nothing where there is no store, or it is broken, or of another mpaudit."""
        try:
            data = self.file.read_bytes()
            head, _, body = data.partition(b"\n")
            if head.decode() != f"{_author()} {digest(body)}":
                return Kept()
            return json.decode(body, type=Kept)
        except (OSError, ValueError, MsgspecError, RecursionError):
            return Kept()

    def save(self, kept: Kept) -> None:
        """Replace the store as a whole; where it cannot be written there is none."""
        try:
            body = json.encode(kept)
        except UnicodeEncodeError:
            body = json.encode(_textual(kept))
        temporary = self.folder / f"{self.file.stem}.{os.getpid()}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, text in ((".gitignore", "*\n"), ("CACHEDIR.TAG", _TAG)):
                if not (self.folder / name).exists():
                    (self.folder / name).write_text(text)
            head = f"{_author()} {digest(body)}\n".encode()
            temporary.write_bytes(head + body)
            temporary.replace(self.file)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _textual(kept: Kept) -> Kept:
    """What JSON can hold of it: nothing is kept of what has to do with a name that is no text."""
    glances = {path: each for path, each in kept.glances.items() if _is_text((path, each))}
    return Kept(glances, [each for each in kept.records if _is_text(each)])


def _is_text(part: object) -> bool:
    try:
        json.encode(part)
    except UnicodeEncodeError:
        return False
    return True


def _author() -> str:
    """What a store was written by: this mpaudit, and the plugins that have a say in it."""
    return digest(f"{signature()} {registry.signature()}".encode())


@lru_cache(maxsize=1)
def signature() -> str:
    """This mpaudit, down to each of its files, and this Python."""
    package = Path(__file__).parents[1]
    states = []
    for root, folders, names in os.walk(package):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                state = os.stat(f"{root}/{name}")  # noqa: PTH116
                states.append(f"{root}/{name} {state.st_mtime_ns} {state.st_size}")
    words = [__version__, sys.version, *states]
    return digest("\n".join(words).encode(errors="surrogateescape"))


def clean(folder: Path) -> Iterator[Path]:
    """Remove the caches in a folder and below it; yields each that is gone."""
    for root, names, _ in os.walk(folder):
        if FOLDER in names:
            names.remove(FOLDER)
            found = Path(root, FOLDER)
            if not found.is_symlink():
                shutil.rmtree(found)
                yield found
        names[:] = [name for name in names if name not in (".git", "node_modules")]

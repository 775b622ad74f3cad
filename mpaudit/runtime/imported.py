"""The user's modules that a run imports: which files, and by which digest their text is known again."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

from mpaudit.runtime.frame import is_users


def digest(content: bytes) -> str:
    """What a text is known by."""
    return hashlib.sha256(content).hexdigest()


class Imports:
    """What is imported from now on."""

    def __init__(self) -> None:
        self._before = set(sys.modules)
        self._began = time.time()

    def files(self) -> dict[str, str]:
        """By the name of each file of the user's that was imported: the digest of its text.

        Files that were written since are left out: nobody knows any more what ran.
        """
        found: dict[str, str] = {}
        for name, module in list(sys.modules.items()):
            filename = getattr(module, "__file__", None)
            if name in self._before or name == "__main__" or not isinstance(filename, str):
                continue
            path = Path(filename).absolute()
            if path.suffix != ".py" or not is_users(filename):
                continue
            try:
                if path.stat().st_mtime <= self._began:
                    found[str(path)] = digest(path.read_bytes())
            except OSError:  # it is gone, or was in an archive
                continue
        return found

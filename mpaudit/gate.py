"""Whether a check of named scripts is over before it begins, as that of most files in pre-commit is.

No rule looks at them, no comment silences one, no configuration is near, and Python can read them. To see
that takes less time than to load what would check them; where anything is in doubt, it is loaded.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpaudit.default import CONFIGURATIONS, EXCLUDED, PYPROJECT
from mpaudit.source.text.discovery import concerns, silences

SILENT = frozenset(
    ["force_exclude", "no_cache", "cache_dir", "jobs", "fix", "unsafe_fixes", "show_fixes"]
)
"""Options that change nothing of what is said of files without a finding."""


def passes(paths: Sequence[Path], given: Mapping[str, Any]) -> bool:
    """Whether all there is to say of `paths` is that they passed; `given` are the options."""
    said = [name for name, value in given.items() if value not in (None, False, ())]
    if not paths or not SILENT.issuperset(said):
        return False
    folders = {os.path.dirname(os.path.abspath(path)) for path in paths}  # noqa: PTH100, PTH120
    if any(_configured(folder) for folder in _around({*folders, str(Path.cwd())})):
        return False
    if given["force_exclude"] and any(map(_excluded, folders)):
        return False
    return all(_plain(path) for path in paths)


def _around(folders: set[str]) -> Iterator[str]:
    """Folders, those above them, and that of the user's own configuration."""
    own = os.environ.get("APPDATA" if os.name == "nt" else "XDG_CONFIG_HOME")
    yield os.path.join(own or os.path.expanduser("~/.config"), "mpaudit")  # noqa: PTH111, PTH118
    seen: set[str] = set()
    for folder in folders:
        while folder not in seen:
            seen.add(folder)
            yield folder
            folder = os.path.dirname(folder)  # noqa: PTH120 - for many files


def _excluded(folder: str) -> bool:
    return not set(EXCLUDED).isdisjoint(Path(folder).parts)


def _configured(folder: str) -> bool:
    for name in CONFIGURATIONS:
        path = f"{folder}/{name}"
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                if name != PYPROJECT or b"mpaudit" in file.read():
                    return True
        except FileNotFoundError:
            continue
        except OSError:  # no file, or none that may be read: that is to be said
            return True
    return False


def _plain(path: Path) -> bool:
    """Whether a file is a script that no rule looks at, and that Python can read."""
    if path.suffix != ".py" or path.name in EXCLUDED:
        return False
    try:
        if not path.is_file():  # a pipe can be read only once
            return False
        data = path.read_bytes()
        if concerns(data) or silences(data) or b"DeepSpeed" in data:  # it may name configurations
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(data, str(path), "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True

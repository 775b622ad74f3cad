"""What git ignores: `.gitignore` files, `.git/info/exclude` and the user's own list.

Patterns as gitignore(5) has them. Only a repository has such files; `.ignore` files, which other
tools than git read, count everywhere, as in ruff.
"""

from __future__ import annotations

import os
import re
from pathlib import Path


class Ignored:
    """Says of files and folders whether they are ignored; folders above are not asked again."""

    def __init__(self) -> None:
        self._files: dict[str, list[_Pattern]] = {}
        self._roots: dict[str, str | None] = {}

    def __call__(self, path: str, *, folder: bool) -> bool:
        """Whether an absolute path, with forward slashes, is ignored; `folder` if it is one."""
        parent = path.rpartition("/")[0]
        found = self._nearest(path, parent, ".ignore", "", folder=folder)
        if found is not None:
            return found
        root = self._root(parent)
        if root is None:
            return False
        found = self._nearest(path, parent, ".gitignore", root, folder=folder)
        if found is not None:
            return found
        for file in (f"{root}/.git/info/exclude", _of_user()):
            found = _last(self._patterns(file), path[len(root) + 1 :], folder=folder)
            if found is not None:
                return found
        return False

    def _nearest(self, path: str, here: str, name: str, root: str, *, folder: bool) -> bool | None:
        """What the files called `name` say, from the folder `here` up to `root`."""
        while True:
            known = self._patterns(f"{here}/{name}")
            found = _last(known, path[len(here) + 1 :], folder=folder) if known else None
            if found is not None or here == root or not here:
                return found
            here = here.rpartition("/")[0]

    def _root(self, folder: str) -> str | None:
        """The root of the repository around a folder."""
        if folder not in self._roots:
            if os.path.exists(f"{folder}/.git"):  # noqa: PTH110 - it is asked for every folder
                self._roots[folder] = folder
            else:
                above = folder.rpartition("/")[0]
                self._roots[folder] = self._root(above) if above else None
        return self._roots[folder]

    def _patterns(self, file: str) -> list[_Pattern]:
        if file not in self._files:
            try:
                text = Path(file).read_text(encoding="utf-8", errors="replace")
            except OSError:
                text = ""
            made = map(_Pattern.of, text.splitlines())
            self._files[file] = [each for each in made if each is not None]
        return self._files[file]


class _Pattern:
    """One line: what it fits, whether it takes back what others ignore, and is for folders only."""

    __slots__ = ("folder", "ignores", "regex")

    def __init__(self, regex: re.Pattern[str], *, ignores: bool, folder: bool) -> None:
        self.regex, self.ignores, self.folder = regex, ignores, folder

    @classmethod
    def of(cls, line: str) -> _Pattern | None:
        """The pattern of a line; None for an empty one, a comment, or what is none."""
        line = re.sub(r"(?<!\\) +$", "", line)
        if not line or line.startswith("#"):
            return None
        ignores = not line.startswith("!")
        line = line if ignores else line[1:]
        folder = line.endswith("/")
        line = line.rstrip("/") if folder else line
        if not line:
            return None
        anchored = "/" in line
        try:
            text = ("" if anchored else "(?:.*/)?") + _regex(line.removeprefix("/"))
            return cls(re.compile(text), ignores=ignores, folder=folder)
        except re.error:
            return None


def _last(patterns: list[_Pattern], path: str, *, folder: bool) -> bool | None:
    """What the last pattern says that fits; None if none does."""
    for each in reversed(patterns):
        if (folder or not each.folder) and each.regex.fullmatch(path):
            return each.ignores
    return None


def _regex(glob: str) -> str:
    if glob == "**":
        return ".*"
    parts: list[str] = []
    position = 0
    while position < len(glob):
        char = glob[position]
        rest = glob[position:]
        starts = position == 0 or glob[position - 1] == "/"
        position += 1
        if starts and rest.startswith("**/"):
            parts.append("(?:.*/)?")
            position += 2
        elif starts and rest == "**":
            parts.append(".+")
            position += 1
        elif char == "*":
            parts.append("[^/]*")
        elif char == "?":
            parts.append("[^/]")
        elif char == "[" and (end := glob.find("]", position + 1)) > 0:
            inside = re.sub(r"[\\[&~|]", r"\\\g<0>", glob[position:end])
            inside = f"^/{inside[1:]}" if inside[0] in "!^" else inside
            parts.append(f"[{inside}]")
            position = end + 1
        elif char == "\\" and position < len(glob):
            parts.append(re.escape(glob[position]))
            position += 1
        else:
            parts.append(re.escape(char))
    return "".join(parts)


def _of_user() -> str:
    """The list that a user keeps for all repositories, where git looks for it by itself."""
    above = os.environ.get("XDG_CONFIG_HOME") or f"{Path.home().as_posix()}/.config"
    return f"{above}/git/ignore"

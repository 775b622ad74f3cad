"""Patterns for files and folders, as ruff takes them: `name`, `*.py`, `src/**/old`, `{a,b}.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from pathlib import Path

from msgspec import Struct

_SPECIAL = re.compile(r"[*?\[{]")


class Patterns(Struct, frozen=True, dict=True):
    """Patterns that count from a folder.

    One without a slash fits every file and folder of that name, and what it names in the folder
    itself; another counts from there. `*` runs over slashes, as it does in ruff.
    """

    words: tuple[str, ...]
    folder: str

    def match(self, path: str) -> bool:
        """Whether an absolute path, with forward slashes, fits one of them."""
        name = path.rpartition("/")[2]
        if name in self._names or (self._named is not None and self._named.fullmatch(name)):
            return True
        return self._found is not None and self._found.fullmatch(path) is not None

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(
            each for each in self.words if not _SPECIAL.search(each) and "/" not in each
        )

    @cached_property
    def _rest(self) -> list[str]:
        return [each.rstrip("/") or "/" for each in self.words if each not in self._names]

    @cached_property
    def _found(self) -> re.Pattern[str] | None:
        return _any(_place(each, self.folder) for each in self._rest)

    @cached_property
    def _named(self) -> re.Pattern[str] | None:
        return _any(regex(each) for each in self._rest if "/" not in each)


def _any(found: Iterable[str]) -> re.Pattern[str] | None:
    joined = "|".join(f"(?:{each})" for each in found)
    return re.compile(joined) if joined else None


def patterns(words: Iterable[str], folder: Path) -> Patterns:
    """Those of `words` that count from `folder`; `~` is the home."""
    kept = (str(Path(each).expanduser()) if each.startswith("~") else each for each in words)
    return _made(tuple(kept), folder.as_posix())


@lru_cache(maxsize=256)
def _made(words: tuple[str, ...], folder: str) -> Patterns:
    return Patterns(words, folder)


def _place(word: str, folder: str) -> str:
    while word.startswith(("./", "../")):
        head, _, word = word.partition("/")
        folder = folder.rpartition("/")[0] if head == ".." else folder
    return regex(word) if Path(word).is_absolute() else f"{re.escape(folder)}/{regex(word)}"


def regex(glob: str) -> str:
    """A regular expression for a pattern."""
    parts: list[str] = []
    position, depth = 0, 0
    while position < len(glob):
        char = glob[position]
        position += 1
        if char == "*":
            if glob.startswith("*/", position) and (position == 1 or glob[position - 2] == "/"):
                parts.append("(?:.*/)?")
                position += 2
                continue
            while glob.startswith("*", position):
                position += 1
            parts.append(".*")
        elif char == "?":
            parts.append(".")
        elif char == "[" and (end := glob.find("]", position + 1)) > 0:
            inside = re.sub(r"[\\[&~|]", r"\\\g<0>", glob[position:end])
            inside = f"^{inside[1:]}" if inside[0] in "!^" else inside
            parts.append(f"[{inside}]")
            position = end + 1
        elif char == "{" and "}" in glob[position:]:
            parts.append("(?:")
            depth += 1
        elif char == "}" and depth:
            parts.append(")")
            depth -= 1
        elif char == "," and depth:
            parts.append("|")
        elif char == "\\" and position < len(glob):
            parts.append(re.escape(glob[position]))
            position += 1
        else:
            parts.append(re.escape(char))
    return "".join(parts)

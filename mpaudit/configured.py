"""Configurations of DeepSpeed among the files of a check: they are read each time, and quickly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mpaudit.config import UNREADABLE
from mpaudit.finding import Position, Problem, Span
from mpaudit.following import Found, unparsable
from mpaudit.source.text.config_file import (
    ConfigFile,
    UnreadableConfigError,
    beside,
    is_config,
    is_config_name,
    read_config,
)
from mpaudit.source.text.discovery import LeftOut


class Configurations:
    """What is wrong in the configurations of one check.

    `folders` are those that were asked for; what lies outside of them is never edited unless it was
    named itself. `left_out` says what is not to be looked at.
    """

    def __init__(self, folders: Sequence[Path], left_out: LeftOut | None = None) -> None:
        self.problems: list[Found] = []
        self.warnings: list[str] = []
        self.documents: dict[str, ConfigFile] = {}
        self._folders = [folder.resolve() for folder in folders]
        self._left_out = left_out
        self._seen: set[Path] = set()

    def take(self, paths: Iterable[Path], named: set[Path]) -> None:
        """Look at files that were found; those that the user `named` are configurations for certain."""
        for path in paths:
            data = self._bytes(path)
            if data is not None and not (path in named or is_config(data)):
                continue
            self._seen.add(path.resolve())
            if data is None:
                continue
            read = self._read(path, data, asked=True)
            if read and not is_config(data):
                self.warnings.append(f"{path}: it holds nothing of a DeepSpeed configuration")

    def take_referred(self, names: Iterable[tuple[Path, str]]) -> None:
        """Look at files that scripts name, if they are configurations."""
        for script, name in names:
            path = beside(script, name)
            if path is None or path.resolve() in self._seen:
                continue
            self._seen.add(path.resolve())
            if self._left_out is not None and self._left_out(str(path.absolute()), folder=False):
                continue
            data = self._bytes(path)
            if data is not None and (is_config(data) or is_config_name(path.name)):
                inside = any(folder in path.resolve().parents for folder in self._folders)
                self._read(path, data, asked=inside)

    def look(self, config: ConfigFile) -> bool:
        """Look at one file's content; says whether it could be read."""
        self.documents[config.filename] = config
        try:
            from mpaudit.checks.deepspeed_config import check_config  # and with it all checks

            self.problems += list(check_config(config))
        except UnreadableConfigError as problem:
            self.problems.append((unparsable(problem), None))
            return False
        return True

    def _read(self, path: Path, data: bytes, *, asked: bool) -> bool:
        try:
            return self.look(read_config(data, str(path), asked=asked))
        except UnreadableConfigError as problem:
            self.problems.append((unparsable(problem), None))
            return False

    def _bytes(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except OSError as problem:
            start = Position(1, 1)
            reason = f"the file cannot be read: {problem.strerror}"
            span = Span(str(path), start, start)
            self.problems.append((Problem(UNREADABLE, span, reason), None))
            return None

"""Configurations of DeepSpeed in files of their own: which files are some, and what they say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from mpaudit.cell import Cell
from mpaudit.finding import Position, Span
from mpaudit.fix import Edit, rewrite
from mpaudit.source.text.module import Module
from mpaudit.source.text.parsing import Encoding, UnparsableError
from mpaudit.source.text.tree_text import BrokenTextError, Tree, comment_at, read_json, read_yaml

SUFFIXES = (".json", ".yaml", ".yml")
MAX_BYTES = 1_000_000
"""No configuration is larger."""
_NAMED = re.compile(r"ds_?config|deepspeed|zero|(?:^|[_.-])ds(?:[_.-]|\d)", re.IGNORECASE)
_KEYS = re.compile(
    rb"\b(?:zero_optimization|train_micro_batch_size_per_gpu|train_batch_size|fp16|bf16"
    rb"|gradient_accumulation_steps|gradient_clipping|steps_per_print|zero_allow_untested_optimizer"
    rb"|wall_clock_breakdown|deepspeed_config)\b"
)
_LITERAL = re.compile(rb"""["']([^"'\\\n]{1,200}\.(?:json|ya?ml))\\?["']""")
_LEVELS = 8


class UnreadableConfigError(UnparsableError):
    """The file is a configuration that cannot be read."""


class ConfigFile(Struct, frozen=True, dict=True):
    """A JSON or YAML file; it has the members of a script.

    `asked` says that it was named to be checked, so that it may be edited.
    """

    filename: str
    text: str
    encoding: Encoding = Encoding()
    asked: bool = True

    @cached_property
    def code(self) -> str:
        """A text with the comments of a YAML file at their places, as Python reads comments."""
        if not self.filename.endswith(SUFFIXES[1:]):
            return ""
        lines = []
        for line in self.text.splitlines(keepends=True):
            end = len(line.rstrip("\r\n"))
            place = min(comment_at(line), end)
            held = "x".ljust(place) if line[:place].strip() else line[:place].replace("\t", " ")
            lines.append(held + line[place:])
        return "".join(lines)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """None: places count in the file."""
        return ()

    @property
    def broken(self) -> tuple[UnparsableError, ...]:
        """None: what cannot be read has no tree."""
        return ()

    def module(self) -> Module:
        """Nothing but comments, for those who ask what stands around them."""
        return Module.parse(self.code, self.filename)

    def light(self) -> ConfigFile:
        """The same: its text is all there is to keep."""
        return self

    def edited(self, edits: Sequence[Edit]) -> ConfigFile:
        """The file with edits of its text."""
        return replace(self, text=rewrite(self.text, edits))

    def tree(self) -> Tree:
        """What it says. Raises UnreadableConfigError."""
        read = read_json if self.filename.endswith(".json") else read_yaml
        try:
            return read(self.text)
        except BrokenTextError as problem:
            here = self.span(problem.at, problem.at)
            raise UnreadableConfigError(str(problem), here) from None

    def span(self, start: int, end: int) -> Span:
        """Where characters stand."""
        return Span(self.filename, self._position(start), self._position(end))

    def _position(self, offset: int) -> Position:
        before = re.split(r"\r\n|\r|\n", self.text[:offset])
        return Position(len(before), len(before[-1]) + 1)


def is_config_name(filename: str) -> bool:
    """Whether a file is called as configurations of DeepSpeed are."""
    return filename.endswith(SUFFIXES) and _NAMED.search(Path(filename).name) is not None


def is_config(data: bytes) -> bool:
    """Whether bytes hold keys of DeepSpeed's own: `zero_optimization`, or any two."""
    if len(data) > MAX_BYTES:
        return False
    found = set(_KEYS.findall(data))
    return len(found) > 1 or b"zero_optimization" in found


def read_config(data: bytes, filename: str, *, asked: bool = True) -> ConfigFile:
    """A file's content. Raises UnreadableConfigError where it is no text, or too much of it."""
    here = Position(1, 1)
    if len(data) > MAX_BYTES:
        reason = f"it has {len(data)} bytes, and no configuration has more than {MAX_BYTES}"
        raise UnreadableConfigError(reason, Span(filename, here, here))
    bom = data.startswith(b"\xef\xbb\xbf")
    try:
        text = data[3 * bom :].decode()
        if "\0" in text:
            raise UnreadableConfigError("it is not text", Span(filename, here, here))
    except UnicodeDecodeError as problem:
        here = Position(data[: problem.start].count(b"\n") + 1, 1)
        reason = f"it is not UTF-8: {problem.reason}"
        raise UnreadableConfigError(reason, Span(filename, here, here)) from None
    return ConfigFile(filename, text, Encoding("utf-8", bom), asked)


def named_in(data: bytes) -> tuple[str, ...]:
    """The names in literals that end as configurations do, in a script that speaks of DeepSpeed."""
    if b"deepspeed" not in data and b"DeepSpeed" not in data:
        return ()
    return tuple(dict.fromkeys(name.decode(errors="replace") for name in _LITERAL.findall(data)))


def beside(script: Path, name: str) -> Path | None:
    """The file that a script means by a path: from its folder, or one above within the project."""
    above = script.absolute().parent
    folders = [script.parent, *above.parents][:_LEVELS]
    for folder in folders:
        try:
            if (folder / name).is_file():
                return folder / name
            if (folder / ".git").exists() or (folder / "pyproject.toml").exists():
                return None
        except (OSError, ValueError):  # a name that is none
            return None
    return None

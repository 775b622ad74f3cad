"""A file's bytes to text, and a text to its tree; why one cannot be read as Python."""

from __future__ import annotations

import ast
import io
import tokenize
import warnings

from msgspec import Struct

from mpaudit.finding import Position, Span

MAX_CHARACTERS = 8_000_000
"""Of one text; the longest scripts that people write have a tenth of that."""


class UnparsableError(Exception):
    """The text is not Python that this interpreter can read; `span` is where it says so.

    `syntax` says that it is the interpreter that refuses it: a newer one may not.
    """

    def __init__(self, message: str, span: Span, *, syntax: bool = False) -> None:
        super().__init__(message)
        self.span = span
        self.syntax = syntax

    def moved(self, span: Span) -> UnparsableError:
        """The same at another place."""
        return UnparsableError(str(self), span, syntax=self.syntax)


class Encoding(Struct, frozen=True):
    """How a file's bytes became text, so that it can be written back as it was."""

    name: str = "utf-8"
    bom: bool = False

    def gives_back(self, data: bytes, text: str) -> bool:
        """Whether `text`, which `data` was read as, is written as the same bytes."""
        try:
            return self.encode(text) == data
        except UnicodeError:
            return False

    def encode(self, text: str) -> bytes:
        """The bytes of `text`, byte order mark included where there was one."""
        return (b"\xef\xbb\xbf" if self.bom else b"") + text.encode(self.name)


def decode(data: bytes, filename: str) -> tuple[str, Encoding]:
    """Decode source bytes as Python does (PEP 263). Raises UnparsableError where they are no text."""
    try:
        name, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        bom = data.startswith(b"\xef\xbb\xbf")
        encoding = Encoding("utf-8" if name == "utf-8-sig" else name, bom)
        text = data[3:].decode("utf-8") if bom else data.decode(encoding.name)
    except (SyntaxError, UnicodeError, LookupError) as problem:
        row = data[: getattr(problem, "start", 0)].count(b"\n") + 1
        at = Position(row, 1)
        raise UnparsableError(
            f"not text in a known encoding: {problem}", Span(filename, at, at)
        ) from None
    return text, encoding


def parsed(text: str, filename: str) -> ast.Module:
    """The tree of a text. Raises UnparsableError.

    Also for more than MAX_CHARACTERS: a tree takes some 200 times the memory of its text.
    """
    if len(text) > MAX_CHARACTERS:
        at = Position(1, 1)
        said = f"{len(text) / 1e6:.0f} million characters of code are too many"
        raise UnparsableError(said, Span(filename, at, at))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text, filename)
    except SyntaxError as problem:
        at = Position(max(problem.lineno or 1, 1), max(problem.offset or 1, 1))
        raise UnparsableError(problem.msg, Span(filename, at, at), syntax=True) from None
    except (ValueError, RecursionError, MemoryError) as problem:
        at = Position(1, 1)
        reason = str(problem) or "nested too deeply"
        raise UnparsableError(reason, Span(filename, at, at)) from None

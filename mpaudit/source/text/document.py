"""A file as it is checked and written back: a script, a notebook, or a configuration."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from mpaudit.cell import Cell
from mpaudit.fix import Edit, rewrite
from mpaudit.source.text import config_file, notebook
from mpaudit.source.text.config_file import ConfigFile
from mpaudit.source.text.module import Module
from mpaudit.source.text.notebook import Notebook
from mpaudit.source.text.parsing import Encoding, UnparsableError, decode


class Script(Struct, frozen=True):
    """A Python file; it has the members of a notebook, but no cells."""

    filename: str
    text: str
    encoding: Encoding = Encoding()

    @property
    def code(self) -> str:
        """What Python reads."""
        return self.text

    @property
    def cells(self) -> tuple[Cell, ...]:
        """None: places count in the file."""
        return ()

    @property
    def broken(self) -> tuple[UnparsableError, ...]:
        """None: what cannot be parsed has no module."""
        return ()

    def module(self) -> Module:
        """The parsed text. Raises UnparsableError."""
        module = Module.parse(self.text, self.filename)
        module.encoding = self.encoding
        return module

    def light(self) -> Script:
        """The same: its text is all there is to keep."""
        return self

    def edited(self, edits: Sequence[Edit]) -> Script:
        """The script with edits of its text."""
        return replace(self, text=rewrite(self.text, edits))


Document = Script | Notebook | ConfigFile


def read(data: bytes, filename: str) -> Document:
    """A file's content. Raises UnparsableError where it is no text, or a notebook without cells."""
    if filename.endswith(notebook.SUFFIX):
        return notebook.read(data, filename)
    if filename.endswith(config_file.SUFFIXES):
        return config_file.read_config(data, filename)
    text, encoding = decode(data, filename)
    return Script(filename, text, encoding)


def from_text(text: str, filename: str) -> Document:
    """The same for a content that is text already."""
    if filename.endswith(notebook.SUFFIX):
        return notebook.read(text.encode(errors="surrogatepass"), filename)
    if filename.endswith(config_file.SUFFIXES):
        return config_file.ConfigFile(filename, text)
    return Script(filename, text)

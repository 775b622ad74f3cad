"""A Jupyter notebook: its code cells as one module, and edits put back into the cells."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from mpaudit.cell import BETWEEN, Cell
from mpaudit.finding import Position, Span
from mpaudit.fix import Edit
from mpaudit.source.text import magic
from mpaudit.source.text.module import Module
from mpaudit.source.text.notebook_json import Source, UnreadableNotebookError, sources, spliced
from mpaudit.source.text.parsing import MAX_CHARACTERS, UnparsableError

SUFFIX = ".ipynb"
MAX_LEAD = 1000
"""Line feeds before a cell, above which it is dearer to have them read than to count up rows."""
_INDENTED = re.compile(r"(?:[ \t]*[\r\n])*[ \t]+\S")


class Notebook(Struct, frozen=True):
    """A notebook as it is checked and written back.

    `text` holds the code cells one after another as they are written, `code` the same with what is
    IPython's made harmless, and with cells that are no Python left blank; `broken` says which.
    """

    filename: str
    data: bytes
    text: str
    code: str
    tree: ast.Module
    cells: tuple[Cell, ...]
    places: Mapping[int, tuple[int, int]]
    broken: tuple[UnparsableError, ...] = ()

    def module(self) -> Module:
        """The cells that are Python, in the order in which they stand, as one module."""
        module = Module(self.filename, self.text)
        module.keep(self.tree)
        return module

    def light(self) -> Notebook:
        """The same without the bytes, to be kept while other files are read; it cannot be edited."""
        return replace(self, data=b"", places={})

    def edited(self, edits: Sequence[Edit]) -> Notebook:
        """The notebook with edits of its text, each within a cell, put into its JSON."""
        ascii_only = self.data.isascii()
        pieces: list[bytes] = []
        done = 0
        for cell in self.cells:
            own = [
                Edit(each.start - cell.start, each.end - cell.start, each.content)
                for each in edits
                if cell.start <= each.start and each.end <= cell.end
            ]
            if own:
                start, end = self.places[cell.number]
                value = spliced(self.data[start:end].decode(), own, ascii_only=ascii_only)
                pieces += [self.data[done:start], value.encode()]
                done = end
        return read(b"".join([*pieces, self.data[done:]]), self.filename)


def read(data: bytes, filename: str) -> Notebook:
    """Read a notebook. Raises UnreadableNotebookError where there are no cells to be had."""
    texts: list[str] = []
    codes: list[str] = []
    body: list[ast.stmt] = []
    cells: list[Cell] = []
    places: dict[int, tuple[int, int]] = {}
    broken: list[UnparsableError] = []
    row, start = 1, 0
    found_there = list(sources(data, filename))
    if sum(len(each.text) for each in found_there) > MAX_CHARACTERS:
        at = Position(1, 1)
        said = f"more than {MAX_CHARACTERS / 1e6:.0f} million characters of code are too many"
        raise UnreadableNotebookError(said, Span(filename, at, at))
    for source in found_there:
        code, found = _parsed(source, filename, row)
        if code is None:
            continue
        if isinstance(found, UnparsableError):
            broken.append(found)
        else:
            body += found
        cells.append(Cell(source.number, row, start, start + len(source.text)))
        places[source.number] = source.place
        texts.append(source.text + BETWEEN)
        codes.append(code + BETWEEN)
        start += len(texts[-1])
        row += len(re.findall(r"\r\n|\r|\n", texts[-1]))
    tree = ast.Module(body=body, type_ignores=[])
    text, code = "".join(texts), "".join(codes)
    return Notebook(filename, data, text, code, tree, tuple(cells), places, tuple(broken))


def _parsed(
    source: Source, filename: str, row: int
) -> tuple[str | None, list[ast.stmt] | UnparsableError]:
    """A cell's Python, None where it has none, and its statements, or why they cannot be read."""
    text = source.text
    try:
        return text, _tree(text, filename, row)
    except UnparsableError:
        code = None if source.foreign else magic.python(text)
    if code is None:
        return None, []
    try:
        return code, _tree(code, filename, row)
    except UnparsableError as problem:
        if magic.names_a_language(text):
            return None, []
        if problem.span.start.row < row:  # a reason without a place
            here = Position(row, 1)
            problem = problem.moved(Span(filename, here, here))
        return magic.blanked(text), problem


def _tree(code: str, filename: str, row: int) -> list[ast.stmt]:
    """The statements of a cell that begins in `row`; IPython takes a common indentation off.

    Line feeds before it give its nodes their rows; where those would be many, they are counted up.
    """
    lead = row - 1 if row <= MAX_LEAD else 0
    try:
        try:
            tree = Module.parse("\n" * lead + code, filename).tree
        except UnparsableError as problem:
            raise _lower(problem, row - 1 - lead) from None
        if lead < row - 1:
            ast.increment_lineno(tree, row - 1)
        return tree.body
    except UnparsableError as problem:
        if not _INDENTED.match(code):
            raise
        try:
            tree = Module.parse(f"if 1:\n{code}", filename).tree
        except UnparsableError:
            raise problem from None
    ast.increment_lineno(tree, row - 2)
    return [each for block in tree.body if isinstance(block, ast.If) for each in block.body]


def _lower(problem: UnparsableError, rows: int) -> UnparsableError:
    start = problem.span.start
    at = Position(start.row + rows, start.column)
    return problem.moved(Span(problem.span.filename, at, at))

"""One Python source text: its tree, and where each node stands in the text.

The tree is the standard library's `ast`: it parses faster than a concrete syntax tree, knows the place
of every node, and is the grammar of the very Python that will run the script. Fixes edit the
text itself, so nothing is lost by the tree having no white space.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mpaudit.config import Target
from mpaudit.finding import Position, Span
from mpaudit.source.text.parsing import Encoding, UnparsableError, decode, parsed
from mpaudit.source.text.shed import AnyFunction, again, inside, is_bare, outer, parents, shed
from mpaudit.source.text.walk import statements, walk

if TYPE_CHECKING:
    from mpaudit.source.text.project import Project

N = TypeVar("N", bound=ast.AST)
T = TypeVar("T")
_NEWLINE = re.compile(r"\r\n|\r|\n")
_COMMENT = re.compile(r"#[^\r\n]*")
_UTF8 = Encoding()
_OPEN = Target()

SPARED = 500_000
"""The trees that were only glanced at are kept for who asks next, for so many characters of text."""


class Module:
    """A source text, parsed when its tree is first asked for.

    `name` is its dotted import name where the project knows one; `target` what the user says the code
    is for; `project` the files around it, if it was read among them.
    """

    def __init__(
        self,
        filename: str,
        text: str,
        name: str = "imported",
        package: str = "",
        encoding: Encoding = _UTF8,
        target: Target = _OPEN,
        project: Project | None = None,
    ) -> None:
        self.filename, self.text = filename, text
        self.name, self.package = name, package
        self.encoding, self.target, self.project = encoding, target, project
        self.kept = False
        """Whether its tree is not that of the text, but was made otherwise."""
        self.problem: UnparsableError | None = None
        """What Python said of the text, once it was parsed."""
        self._spare: ast.Module | None = None
        self._bare: dict[AnyFunction, None] = {}
        """The functions of which parameters and body were dropped."""
        self._laden: list[AnyFunction] | None = None
        """Those that have got them back since, None as long as all have them."""
        self._mentioned: dict[str, bool] = {}

    def keep(self, tree: ast.Module) -> None:
        """Take a tree that was made otherwise than by parsing the text."""
        self.__dict__["_tree"], self.kept = tree, True

    @classmethod
    def parse(
        cls, text: str, filename: str, *, name: str = "imported", package: str = ""
    ) -> Module:
        """Parse `text`. Raises UnparsableError, with the place, for anything Python cannot read."""
        return cls(filename, text, name, package).parsed()

    def parsed(self) -> Module:
        """This module, its tree at hand. Raises UnparsableError."""
        self.__dict__["_tree"] = parsed(self.text, self.filename)
        return self

    @property
    def tree(self) -> ast.Module:
        """The syntax tree; that of an empty text where Python cannot read this one."""
        for function in self._bare:
            function.body  # noqa: B018 - asked for, it is there
        self._bare.clear()
        return self._tree

    @cached_property
    def _tree(self) -> ast.Module:
        if self._spare is not None:
            spare, self._spare = self._spare, None
            return spare
        try:
            return parsed(self.text, self.filename)
        except UnparsableError as problem:
            self.problem = problem
            return ast.Module([], [])

    def glance(self, look: Callable[[Module], T]) -> T:
        """What a look at the tree tells, which holds no node; a tree parsed for that is not kept."""
        there = "_tree" in self.__dict__
        found = look(self)
        if not there:
            self._spare = self.tree
            self.fell()
            _spared.append(self)
            while sum(len(each.text) for each in _spared) > SPARED:
                _spared.popleft()._spare = None
        return found

    def fell(self) -> None:
        """Drop the tree, of which nobody may hold a node; it is parsed anew when it is asked for."""
        self.forget()
        self._bare, self._laden = {}, None
        self.__dict__.pop("_tree", None)

    @property
    def laden(self) -> bool:
        """Whether functions have got back what was dropped of them."""
        return bool(self._laden)

    def shed(self, executed: Collection[ast.stmt]) -> None:
        """Drop parameters and bodies of functions of which nothing was executed, until somebody asks.

        Of these nobody may hold a node.
        """
        if self.kept:
            return
        self.imports  # noqa: B018 - most programs ask for them, wherever they stand
        functions = list(outer(self._tree)) if self._laden is None else self._laden
        shed(functions, executed, self._again)
        self._bare.update(dict.fromkeys(each for each in functions if is_bare(each)))
        self._laden = []
        self.forget()

    def _again(self, function: AnyFunction) -> AnyFunction:
        start, _ = self.line_range(function.lineno)
        _, end = self.line_range(function.end_lineno or function.lineno)
        found = again(self.text[start:end], function.lineno, indented=function.col_offset > 0)
        if self._laden is not None:
            self._laden.append(function)
        if "parents" in self.__dict__:
            for each in inside(found):
                self.parents[each] = function
                self.parents.update(parents(each))
        return found

    @classmethod
    def read(cls, path: Path, filename: str | None = None) -> Module:
        """Read a file. Raises UnparsableError where it is no text, or OSError where it cannot be read."""
        filename = filename or str(path)
        text, encoding = decode(path.read_bytes(), filename)
        return cls(filename, text, encoding=encoding)

    @cached_property
    def line_starts(self) -> list[int]:
        """Character offset of the start of every line; row 1 is at index 0."""
        return [0, *(match.end() for match in _NEWLINE.finditer(self.text))]

    def line(self, row: int) -> str:
        """The text of a line (rows from 1), without its line end."""
        start, end = self.line_range(row)
        return self.text[start:end].rstrip("\r\n")

    def line_range(self, row: int) -> tuple[int, int]:
        """Character offsets of a line, its line end included."""
        starts = self.line_starts
        return starts[row - 1], starts[row] if row < len(starts) else len(self.text)

    def offset(self, row: int, utf8_column: int) -> int:
        """Character offset of a place given as `ast` gives it: row from 1, column in UTF-8 bytes."""
        start, end = self.line_range(row)
        line = self.text[start:end]
        if line.isascii():
            return start + utf8_column
        return start + len(line.encode()[:utf8_column].decode())

    def range(self, node: ast.AST) -> tuple[int, int]:
        """Character offsets of a node, end exclusive; parentheses around it are not part of it."""
        row, column, end_row, end_column = _place(node)
        return self.offset(row, column), self.offset(end_row, end_column)

    def source(self, node: ast.AST) -> str:
        """The node's own text."""
        start, end = self.range(node)
        return self.text[start:end]

    def position(self, offset: int) -> Position:
        """Row and column (from 1, in characters) of a character offset."""
        row = bisect_right(self.line_starts, offset)
        return Position(row, offset - self.line_starts[row - 1] + 1)

    def span(self, node: ast.AST) -> Span:
        """Where a node stands."""
        place = _place(node)
        if place not in self._spans:
            row, column, end_row, end_column = place
            start, end = self.offset(row, column), self.offset(end_row, end_column)
            self._spans[place] = Span(self.filename, self.position(start), self.position(end))
        return self._spans[place]

    @cached_property
    def _spans(self) -> dict[tuple[int, int, int, int], Span]:
        """Those that were asked for: of a call, they are for each path that makes it."""
        return {}

    @cached_property
    def _kinds(self) -> dict[type[ast.AST], list[ast.AST]]:
        """The nodes of every type."""
        kinds: dict[type[ast.AST], list[ast.AST]] = {}
        for node in walk(self.tree):
            kinds.setdefault(type(node), []).append(node)
        return kinds

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """The parent of every node; of what was dropped of a function, once it is back."""
        return parents(self._tree)

    def every(self, kind: type[N]) -> list[N]:
        """All nodes of just this type, in the order of the text."""
        return self._kinds.get(kind, [])  # type: ignore[return-value]

    @cached_property
    def imports(self) -> list[ast.Import | ast.ImportFrom]:
        """All imports, wherever they stand, in the order of the text."""
        return self.glance(
            lambda its: [
                s for s in statements(its.tree) if isinstance(s, ast.Import | ast.ImportFrom)
            ]
        )

    @cached_property
    def spelled(self) -> frozenset[str]:
        """All plain names that the text mentions; those of attributes, arguments and imports are none."""
        return self.glance(
            lambda its: frozenset(n.id for n in walk(its.tree) if isinstance(n, ast.Name))
        )

    @property
    def is_package(self) -> bool:
        """Whether it is the `__init__.py` of one."""
        return self.filename.endswith("__init__.py")

    @cached_property
    def _defined(self) -> frozenset[str]:
        """The functions and classes at the top of the text, and what is imported from others there."""
        return self.glance(lambda its: frozenset(_defined(its.tree.body)))

    def defines(self, name: str) -> bool:
        """Whether a name may stand for something in this module; mostly its letters tell."""
        if not self.mentions(name):
            return False
        if any(f"\n{each}" in self.text for each in (f"class {name}(", f"def {name}(")):
            return True
        return name in self.spelled or name in self._defined

    def mentions(self, word: str) -> bool:
        """Whether the text has these letters; what is asked at every call is looked for once."""
        if word not in self._mentioned:
            self._mentioned[word] = word in self.text
        return self._mentioned[word]

    @cached_property
    def _recalled(self) -> dict[Hashable, object]:
        return {}

    def recall(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` works out of the tree, nodes perhaps among it; once, until that is forgotten."""
        if key not in self._recalled:
            self._recalled[key] = make()
        return self._recalled[key]  # type: ignore[return-value]

    def forget(self) -> None:
        """Drop what was worked out of the tree, which takes as much memory; it can be worked out again."""
        for name in ("line_starts", "parents", "_kinds", "_recalled", "_spans"):
            self.__dict__.pop(name, None)

    @cached_property
    def newline(self) -> str:
        """The line end this text uses: that of its first line."""
        match = _NEWLINE.search(self.text)
        return match.group() if match else "\n"

    @cached_property
    def quote(self) -> str:
        """The quotation mark this text prefers."""
        return "'" if self.text.count("'") > self.text.count('"') else '"'

    def statement(self, node: ast.AST) -> ast.stmt:
        """The innermost statement that holds `node`."""
        while not isinstance(node, ast.stmt):
            node = self.parents[node]
        return node

    def node_at(self, span: Span, kind: type[ast.AST] = ast.AST) -> ast.AST | None:
        """The outermost node of `kind` that stands exactly at `span`, None if there is none."""
        for node in walk(self.tree):
            if (
                isinstance(node, kind)
                and getattr(node, "lineno", None) == span.start.row
                and self.span(node) == span
            ):
                return node
        return None


_spared: deque[Module] = deque()
"""The modules with a tree to spare, the oldest first."""


def _place(node: ast.AST) -> tuple[int, int, int, int]:
    """Row and UTF-8 column of a node's start and end; a `with` item has those of its parts."""
    if isinstance(node, ast.withitem):
        row, column, end_row, end_column = _place(node.context_expr)
        if node.optional_vars is not None:
            _, _, end_row, end_column = _place(node.optional_vars)
        return row, column, end_row, end_column
    if isinstance(node, (ast.expr, ast.stmt, ast.excepthandler, ast.alias, ast.arg, ast.keyword)):
        return node.lineno, node.col_offset, node.end_lineno or 0, node.end_col_offset or 0
    raise TypeError(f"a {type(node).__name__} stands nowhere in the text")


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    """What statements define, or import from elsewhere; star imports apart."""
    for each in body:
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield each.name
        elif isinstance(each, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in each.names)
        elif isinstance(each, (ast.If, ast.Try)):
            for part in (each.body, each.orelse, *_ends(each)):
                yield from _defined(part)


def _ends(node: ast.If | ast.Try) -> Iterator[list[ast.stmt]]:
    if isinstance(node, ast.Try):
        yield node.finalbody
        yield from (handler.body for handler in node.handlers)


def bare(text: str) -> str:
    """A text without its comments, for a look at its words; a # in a string counts as one."""
    return _COMMENT.sub("", text)

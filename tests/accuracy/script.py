"""What a script's syntax says, for operators that break it: places, blocks, and where names come from.

Nothing here uses mpaudit's engine: the bench must not believe what it tests. Names are resolved by a much
simpler method (imports, assignments, parameters by the calls within the program), and where that is not
enough the operators do without a mutant.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

Function = ast.FunctionDef | ast.AsyncFunctionDef
Loop = ast.For | ast.While | ast.AsyncFor
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOPS = (ast.For, ast.While, ast.AsyncFor)
BLOCKS = ("body", "orelse", "finalbody")


@dataclass(eq=False)
class Script:
    """One file: its text and its tree, with parents, offsets and imports."""

    path: str
    text: str
    tree: ast.Module = field(init=False)

    def __post_init__(self) -> None:
        self.tree = ast.parse(self.text)
        self._parents = {
            child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)
        }
        self._rows = self.text.splitlines(keepends=True)
        self._starts = [0]
        for row in self._rows:
            self._starts.append(self._starts[-1] + len(row))

    # Places

    def start(self, node: ast.AST) -> int:
        """The offset of a node's first character."""
        return self._offset(node.lineno, node.col_offset)

    def end(self, node: ast.AST) -> int:
        """The offset behind a node's last character."""
        return self._offset(node.end_lineno, node.end_col_offset)

    def _offset(self, row: int, column: int) -> int:
        line = self._rows[row - 1]
        return self._starts[row - 1] + len(line.encode()[:column].decode())

    def line_start(self, offset: int) -> int:
        return self.text.rfind("\n", 0, offset) + 1

    def line_end(self, offset: int) -> int:
        """The offset behind the newline of the line that holds `offset`."""
        found = self.text.find("\n", offset)
        return len(self.text) if found < 0 else found + 1

    def source(self, node: ast.AST) -> str:
        return self.text[self.start(node) : self.end(node)]

    def indent(self, stmt: ast.stmt) -> str:
        return " " * stmt.col_offset

    def owns_lines(self, stmt: ast.stmt) -> bool:
        """Whether a statement shares its lines with no other code (no `a; b`, no `if x: a`)."""
        before = self.text[self.line_start(self.start(stmt)) : self.start(stmt)]
        after = self.text[self.end(stmt) : self.line_end(self.end(stmt))].strip()
        return not before.strip() and (not after or after.startswith("#"))

    # Structure

    def parent(self, node: ast.AST) -> ast.AST | None:
        return self._parents.get(node)

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """The node's ancestors, nearest first."""
        current = self._parents.get(node)
        while current is not None:
            yield current
            current = self._parents.get(current)

    def statement(self, node: ast.AST) -> ast.stmt:
        return next(each for each in (node, *self.above(node)) if isinstance(each, ast.stmt))

    def block(self, stmt: ast.stmt) -> tuple[list[ast.stmt], int]:
        """The list of statements that holds `stmt`, and its place there."""
        parent = self._parents[stmt]
        for name in (*BLOCKS, "handlers", "cases"):
            body = getattr(parent, name, None)
            if isinstance(body, list) and stmt in body:
                return body, body.index(stmt)
        raise ValueError("a statement without a block")

    def following(self, stmt: ast.stmt) -> list[ast.stmt]:
        body, index = self.block(stmt)
        return body[index + 1 :]

    def preceding(self, stmt: ast.stmt) -> list[ast.stmt]:
        body, index = self.block(stmt)
        return body[:index]

    def function(self, node: ast.AST) -> Function | None:
        return next((each for each in self.above(node) if isinstance(each, FUNCTIONS)), None)

    def class_of(self, node: ast.AST) -> ast.ClassDef | None:
        return next((each for each in self.above(node) if isinstance(each, ast.ClassDef)), None)

    def loops(self, node: ast.AST) -> list[Loop]:
        """The loops around a node in its own function, innermost first."""
        found: list[Loop] = []
        for each in self.above(node):
            if isinstance(each, FUNCTIONS):
                break
            if isinstance(each, LOOPS):
                found.append(each)
        return found

    def exclusive(self, one: ast.AST, other: ast.AST) -> bool:
        """Whether two nodes stand in different branches of the same condition."""
        line = [one, *self.above(one)]
        for below, node in zip([other, *self.above(other)], self.above(other), strict=False):
            if node in line:
                if not isinstance(node, ast.If | ast.IfExp | ast.Match | ast.Try):
                    return False
                mine = line[line.index(node) - 1]
                return self._branch(node, mine) != self._branch(node, below)
        return False

    @staticmethod
    def _branch(node: ast.AST, child: ast.AST) -> object:
        for name in ("body", "orelse", "cases", "handlers", "finalbody"):
            held = getattr(node, name, None)
            if held is child:
                return name
            if isinstance(held, list) and child in held:
                return (name, held.index(child)) if name in ("cases", "handlers") else name
        return None

    # Names

    @cached_property
    def imports(self) -> dict[str, str]:
        """Local name -> dotted name, of every import of the file, wherever it stands."""
        found: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for each in node.names:
                    if each.asname:
                        found[each.asname] = each.name
                    else:
                        top = each.name.split(".")[0]
                        found[top] = top
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for each in node.names:
                    found[each.asname or each.name] = f"{node.module}.{each.name}"
        return found

    def qualified(self, node: ast.AST) -> str:
        """The dotted name that an expression has by the imports, "" where it has none."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.imports:
            return ""
        return ".".join([self.imports[node.id], *reversed(names)])

    def calls(self, within: ast.AST | None = None) -> Iterator[ast.Call]:
        """The calls in source order."""
        found = [n for n in ast.walk(within or self.tree) if isinstance(n, ast.Call)]
        yield from sorted(found, key=lambda call: (call.end_lineno, call.end_col_offset))

    def scope(self, name: ast.Name) -> ast.AST:
        """The function (or the module) where a name is bound, as Python decides it."""
        for each in self.above(name):
            if isinstance(each, (*FUNCTIONS, ast.Lambda)) and name.id in self._bound(each):
                return each
        return self.tree

    def _bound(self, function: ast.AST) -> frozenset[str]:
        known = self._bindings.get(function)
        if known is None:
            a = function.args
            names = {p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)}
            names |= {p.arg for p in (a.vararg, a.kwarg) if p}
            freed: set[str] = set()
            for node in _own(function):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    names.add(node.id)
                elif isinstance(node, ast.Global | ast.Nonlocal):
                    freed |= set(node.names)
            known = self._bindings[function] = frozenset(names - freed)
        return known

    @cached_property
    def _bindings(self) -> dict[ast.AST, frozenset[str]]:
        return {}


def _own(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of the functions in it."""
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (*FUNCTIONS, ast.Lambda, ast.ClassDef)):
            waiting.extend(ast.iter_child_nodes(node))


def assignments(tree: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """(target, value) of every plain assignment, tuples taken apart, keyword arguments left out."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    yield from _pairs(target, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                yield target, value
            case ast.NamedExpr(target=target, value=value):
                yield target, value


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        if len(target.elts) == len(value.elts):
            for one, other in zip(target.elts, value.elts, strict=True):
                yield from _pairs(one, other)
        return
    yield target, value


def parameters(function: Function) -> list[ast.arg]:
    a = function.args
    return [*a.posonlyargs, *a.args, *a.kwonlyargs]


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((k.value for k in call.keywords if k.arg == name), None)


def argument(call: ast.Call, index: int, name: str) -> ast.expr | None:
    """An argument given by place or by name."""
    if len(call.args) > index and not any(
        isinstance(a, ast.Starred) for a in call.args[: index + 1]
    ):
        return call.args[index]
    return keyword(call, name)


def unstarred(call: ast.Call) -> bool:
    return not any(isinstance(a, ast.Starred) for a in call.args) and all(
        k.arg for k in call.keywords
    )


def names_in(nodes: Sequence[ast.AST], context: type[ast.expr_context]) -> set[str]:
    """The plain names that are read or written in some nodes."""
    return {
        node.id
        for each in nodes
        for node in ast.walk(each)
        if isinstance(node, ast.Name) and isinstance(node.ctx, context)
    }

"""The arguments of a call: which one has a name, and where each stands in the text."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

_BEFORE_PAREN = re.compile(r"(?:[\s)]|\\\r?\n|#[^\r\n]*)*\(")
_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
_SILENT = frozenset(
    {tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT}
)


class UnrepairableError(Exception):
    """The text cannot be rewritten with certainty; the message says why, `node` where."""

    def __init__(self, reason: str, node: ast.AST) -> None:
        super().__init__(reason)
        self.node = node


def arguments(module: Module, call: ast.Call) -> tuple[int, list[tuple[int, int]]]:
    """Where a call's arguments begin, and the range of each in text order with its parentheses."""
    _, after_function = module.range(call.func)
    _, end = module.range(call)
    opening = _BEFORE_PAREN.match(module.text, after_function)
    if opening is None:
        raise UnrepairableError("its call is written in an unusual way", call)
    start = opening.end() - 1
    chunk = module.text[start:end]
    lines = [0]
    for line in _LINES.finditer(chunk):
        lines.append(line.end())
    found: list[tuple[int, int]] = []
    first = last = None
    depth = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(chunk, newline="").readline):
            where = start + lines[token.start[0] - 1] + token.start[1]
            closes = token.type == tokenize.OP and token.string in ")]}"
            depth -= closes
            if (depth == 1 and token.string == ",") or (depth == 0 and closes):
                if first is not None and last is not None:
                    found.append((first, last))
                first = None
            elif depth and token.type not in _SILENT:
                first = where if first is None else first
                last = start + lines[token.end[0] - 1] + token.end[1]
            if depth == 0 and closes:
                break
            depth += token.type == tokenize.OP and token.string in "([{"
    except (tokenize.TokenError, SyntaxError, IndexError):
        raise UnrepairableError("its call is written in an unusual way", call) from None
    if len(found) != len(call.args) + len(call.keywords):
        raise UnrepairableError("its call is written in an unusual way", call)
    return opening.end(), found


def given(
    call: ast.Call, name: str, order: tuple[str, ...] | None, first: int = 0
) -> ast.expr | None:
    """The argument called `name`, by keyword or by its place in the signature's `order`."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    position = first + order.index(name) if order and name in order else len(call.args)
    return call.args[position] if position < len(call.args) else None

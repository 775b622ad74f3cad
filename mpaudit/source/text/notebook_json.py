"""The JSON of a notebook, read by places, so that an edit changes the characters it means and no others.

What is no cell's source (outputs, metadata) is skipped. While it is walked, a character of the text is a
byte of the file: nothing but the sources is decoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from mpaudit.finding import Position, Span
from mpaudit.fix import Edit
from mpaudit.source.text.parsing import UnparsableError

_IN_NOTEBOOK = (("language_info", "name"), ("kernelspec", "language"))
_IN_CELL = (
    ("vscode", "languageId"),
    ("polyglot_notebook", "kernelName"),
    ("dotnet_interactive", "language"),
)
"""Where the metadata of a notebook, and of a cell, say which language it is in."""
_OLD = (
    "it has the old format 3 (`worksheets`), which is not read; "
    "`jupyter nbconvert --to notebook --inplace` brings it up to date"
)
_SPACE = re.compile(r"[ \t\r\n]*")
_CONFLICT = re.compile(rb"(?:<{7}|={7}|>{7})(?: [^\r\n]*)?")
_CHARACTER = re.compile(
    r"\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|\\u[\da-fA-F]{4}|\\.|[^\\]",
    re.DOTALL,
)
"""One character inside of a JSON string, as it is spelt there."""
_LINE_END = r"\n"  # as JSON spells it
_decode = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode  # numbers of any length

Members = dict[str, tuple[Any, int, int]]
"""Members of an object: the value, and where it starts and ends."""


class UnreadableNotebookError(UnparsableError):
    """The file is no notebook that can be read; `span` counts in the file, not in a cell."""


class Source(Struct, frozen=True):
    """A code cell's source; `number` counts all cells from 1, `place` is that of the JSON value.

    `foreign` says that an editor has marked the cell as text of another language.
    """

    number: int
    text: str
    place: tuple[int, int]
    foreign: bool


def sources(data: bytes, filename: str) -> list[Source]:
    """The code cells of a notebook in Python, with their sources' places."""
    text = data.decode("latin-1")
    found: dict[str, Any] = {}
    cells: list[Members] = []

    def top(key: str, at: int) -> int:
        if key == "cells" and text.startswith("[", at):
            cells.clear()
            found[key] = cells
            return _elements(text, at, cell)
        value, end = _decode(text, at)
        if key != "cells":
            found[key] = value
        return end

    def cell(at: int) -> int:
        members: Members = {}
        cells.append(members)

        def member(key: str, at: int) -> int:
            value, end = _decode(text, at)
            if key in ("cell_type", "metadata", "source"):
                members[key] = value, at, end
            return end

        return _members(text, at, member)

    begin = _after_space(text, 3 if data.startswith(b"\xef\xbb\xbf") else 0)
    try:
        end = _after_space(text, _members(text, begin, top))
        if end < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except json.JSONDecodeError as problem:
        raise _unreadable(_broken(problem, data), data, filename, problem.pos) from None
    except RecursionError:
        raise _unreadable("its JSON is nested too deeply", data, filename, 0) from None
    if "cells" not in found:
        reason = _OLD if "worksheets" in found else "its JSON has no list of `cells`"
        raise _unreadable(reason, data, filename, 0)
    if not _is_python(found.get("metadata"), _IN_NOTEBOOK):
        return []
    return [
        Source(
            number,
            _text(members, data, filename),
            members["source"][1:],
            not _is_python(_value(members, "metadata"), _IN_CELL),
        )
        for number, members in enumerate(cells, 1)
        if "source" in members and _value(members, "cell_type") == "code"
    ]


def _members(text: str, at: int, take: Callable[[str, int], int]) -> int:
    """Walk an object; `take` is given each key and where its value starts, and says where it ends."""
    if not text.startswith("{", at):
        raise json.JSONDecodeError("Expecting an object", text, at)
    at = _after_space(text, at + 1)
    while not text.startswith("}", at):
        if not text.startswith('"', at):
            raise json.JSONDecodeError(
                "Expecting property name enclosed in double quotes", text, at
            )
        key, at = _decode(text, at)
        at = _after_space(text, at)
        if not text.startswith(":", at):
            raise json.JSONDecodeError("Expecting ':' delimiter", text, at)
        at = _next(text, take(key, _after_space(text, at + 1)), "}")
    return at + 1


def _elements(text: str, at: int, take: Callable[[int], int]) -> int:
    """Walk a list; `take` is given where each element starts, and says where it ends."""
    at = _after_space(text, at + 1)
    while not text.startswith("]", at):
        at = _next(text, take(at), "]")
    return at + 1


def _next(text: str, at: int, closing: str) -> int:
    """From the end of a value to the start of the next one, or to the closing bracket."""
    at = _after_space(text, at)
    if text.startswith(closing, at):
        return at
    if not text.startswith(",", at):
        raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    following = _after_space(text, at + 1)
    if text.startswith(closing, following):
        raise json.JSONDecodeError("Illegal trailing comma", text, at)
    return following


def _after_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _broken(problem: json.JSONDecodeError, data: bytes) -> str:
    """The decoder's words, or, where that is so, that it is a merge conflict."""
    line = data[data.rfind(b"\n", 0, problem.pos) + 1 : problem.pos + 80]
    conflict = _CONFLICT.match(line)
    if conflict:
        return f"its JSON holds a merge conflict (`{conflict.group().decode(errors='replace')}`)"
    return f"its JSON is broken: {problem.msg}"


def _unreadable(reason: str, data: bytes, filename: str, offset: int) -> UnreadableNotebookError:
    line = data.rfind(b"\n", 0, offset) + 1
    column = len(data[line:offset].decode("utf-8", "replace")) + 1
    here = Position(data.count(b"\n", 0, offset) + 1, column)
    return UnreadableNotebookError(reason, Span(filename, here, here))


def _is_python(metadata: Any, keys: Sequence[tuple[str, str]]) -> bool:
    """Whether metadata say Python, or nothing."""
    for key, name in keys:
        value = metadata.get(key) if isinstance(metadata, dict) else None
        if isinstance(value, dict) and isinstance(value.get(name), str):
            return "python" in value[name].lower()
    return True


def _value(members: Members, key: str) -> Any:
    return members[key][0] if key in members else None


def _text(members: Members, data: bytes, filename: str) -> str:
    """A cell's source; its value in `members` was read byte by byte, so it is read again."""
    _, start, end = members["source"]
    try:
        value = json.loads(data[start:end].decode())
    except UnicodeDecodeError as problem:
        reason = f"not UTF-8: {problem.reason}"
        raise _unreadable(reason, data, filename, start + problem.start) from None
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "".join(value)
    if not isinstance(value, str):
        raise _unreadable("the source of a cell is neither text nor lines", data, filename, start)
    return value


def spliced(value: str, edits: Sequence[Edit], *, ascii_only: bool) -> str:
    """The JSON of a source with edits of the text that it says."""
    one = value.startswith('"')
    strings, between = ([value], ["", ""]) if one else _strings(value)
    characters: list[tuple[str, int]] = []  # as they are spelt; how many strings end behind them
    for string in strings:
        if own := _CHARACTER.findall(string[1:-1]):
            characters += [*((each, 0) for each in own[:-1]), (own[-1], 1)]
        elif characters:
            characters[-1] = characters[-1][0], characters[-1][1] + 1
    if characters and characters[-1][0] != _LINE_END:
        characters[-1] = characters[-1][0], 0
    for edit in sorted(edits, reverse=True):
        new = _CHARACTER.findall(json.dumps(edit.content, ensure_ascii=ascii_only)[1:-1])
        characters[edit.start : edit.end] = [(each, int(each == _LINE_END)) for each in new]
    if one:
        return f'"{"".join(each for each, _ in characters)}"'
    lines = [""]
    for each, ends in characters:
        lines[-1] += each
        lines += [""] * ends
    if not lines[-1]:
        lines.pop()
    opening, closing = between[0], between[-1]
    separator = between[1] if len(between) > 2 else f",{opening[1:] or ' '}"
    return opening + separator.join(f'"{line}"' for line in lines) + closing


def _strings(value: str) -> tuple[list[str], list[str]]:
    """The strings of a JSON list, and what stands before, between and behind them."""
    strings: list[str] = []
    between: list[str] = []
    at = 0

    def string(start: int) -> int:
        nonlocal at
        between.append(value[at:start])
        _, at = _decode(value, start)
        strings.append(value[start:at])
        return at

    _elements(value, 0, string)
    return strings, [*between, value[at:]]

"""What IPython adds to Python, made harmless, so that the rest of a cell can be read as Python.

What comes out has as many characters in every line as what went in: places in the one are places in the
other. A magic is blanked; where Python wants a statement or a value, a number or a name stands in.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator

PYTHON_CELLS = re.compile(
    r"capture|debug|heat|ipytest|lprun|memit|mprun|notify|prun|pyinstrument|scalene|snakeviz|time|timeit|wandb"
)
"""Cell magics whose body is Python that runs as that of any cell does."""
STATEMENTS = re.compile(r"lprun|memit|mprun|prun|snakeviz|time|timeit")
"""Line magics that run the Python behind them."""
LANGUAGES = re.compile(
    r"bash|fs|html|javascript|js|latex|markdown|md|perl|r|ruby|scala|sh|sql", re.IGNORECASE
)
"""Line magics that may say, where they head a cell, that all of it is in another language."""
AUTOMATIC = re.compile(
    r"cat|cd|conda|cp|ls|ll|load_ext|mamba|matplotlib|mkdir|mv|pip|pwd|reload_ext|rm|rmdir|run|time|timeit|uv"
)
"""Magics that a cell of one line may leave the `%` off."""

UNKNOWN = "__"  # a name that no script binds: what it holds is not known
_ESCAPES = "%!?,;/"  # no statement of Python begins with these
_LINE = re.compile(r"(?:[^\\\r\n]|\\(?:\r\n|.|\Z))*", re.DOTALL)  # and what a backslash joins to it
_PROMPT = re.compile(r"^(?:(?:>>>|\.\.\.)(?: |$)|In \[\d+\]: | +\.{3,}: ?)", re.MULTILINE)
_INDENT = re.compile(r"[ \t\f]*")
_NAMED = re.compile(r"[%!]*(\w*)")
_TOKEN = re.compile(
    r"""(?P<gap>[ \t\f]+|\\(?:\r\n|\r|\n)|\#[^\r\n]*)
    | (?P<newline>\r\n|\r|\n)
    | (?P<string>\"{3}(?:[^\\]|\\.)*?\"{3} | '{3}(?:[^\\]|\\.)*?'{3}
        | "(?:[^"\\\r\n]|\\(?:\r\n|.))*" | '(?:[^'\\\r\n]|\\(?:\r\n|.))*')
    | (?P<word>\w+)
    | (?P<sign>[=!<>]=|[-+*/%@&|^:]=|.)""",
    re.VERBOSE | re.DOTALL,
)


def python(cell: str) -> str | None:
    """`cell` as Python in the same lines and columns; None for a cell that a magic takes for its own."""
    start, head = _head(cell)
    if _PROMPT.match(head):
        return _PROMPT.sub(lambda prompt: blanked(prompt.group()), cell)
    if head.startswith("%%"):
        if not PYTHON_CELLS.fullmatch(_name(head)):
            return None
        cell = cell[:start] + blanked(head) + cell[start + len(head) :]
    elif (
        AUTOMATIC.fullmatch(_name(head))
        and head[0] not in _ESCAPES
        and cell.strip() == head.strip()
    ):
        return blanked(cell)
    return "".join(_statements(cell))


def names_a_language(cell: str) -> bool:
    """Whether the first line may say that the cell is in another language, as on Databricks."""
    _, head = _head(cell)
    return head.startswith("%") and LANGUAGES.fullmatch(_name(head)) is not None


def blanked(text: str) -> str:
    """As many spaces; the line ends stay."""
    return re.sub(r"[^\r\n]", " ", text)


def _head(cell: str) -> tuple[int, str]:
    """The first line that is neither empty nor a comment, and where it starts."""
    for match in re.finditer(r"[^\s#][^\r\n]*|#[^\r\n]*", cell):
        if not match.group().startswith("#"):
            return match.start(), match.group()
    return len(cell), ""


def _name(line: str) -> str:
    found = _NAMED.match(line)
    return found[1] if found else ""


def _statements(cell: str) -> Iterator[str]:
    """The logical lines of a cell; what is not Python in them is replaced."""
    at = 0
    while at < len(cell):
        begin = _end(_INDENT, cell, at)
        yield cell[at:begin]
        if begin < len(cell) and cell[begin] in _ESCAPES:
            at = _end(_LINE, cell, begin)
            yield _statement(cell[begin:at], indented=begin > 0 and cell[begin - 1] in " \t")
        else:
            at, text = _python(cell, begin)
            yield text


def _python(cell: str, begin: int) -> tuple[int, str]:
    """The end and the text of one logical line that begins as Python does."""
    at, depth, before = begin, 0, ""
    pieces: list[str] = []
    while token := _TOKEN.match(cell, at):
        text, kind = token.group(), token.lastgroup
        if kind == "newline" and depth <= 0:
            break
        if before == "=" and text in ("%", "!") and depth <= 0:
            end = _end(_LINE, cell, at)
            pieces.append(_value(cell[at:end]))
            return end, "".join(pieces)
        at = token.end()
        pieces.append(text)
        if kind == "sign":
            depth += (text in "([{") - (text in ")]}")
        if kind not in ("gap", "newline"):
            before = text
    if before == "?":
        return at, _filled(cell[begin:at])
    return at if token is None else token.end(), "".join(pieces) + (token.group() if token else "")


def _statement(line: str, *, indented: bool) -> str:
    """What stands in for a line that is IPython's: the Python that it runs, or nothing."""
    if line.startswith("%") and STATEMENTS.fullmatch(_name(line)):
        for lead, body in _bodies(line):
            tree = _tree(body)
            if tree is not None and not any(hasattr(each, "body") for each in tree.body):
                return f"0;{' ' * (lead - 2)}{body}"
    return _filled(line) if indented else blanked(line)


def _value(text: str) -> str:
    """What stands in for the value of `x = %magic` or `x = !command`."""
    if text.startswith("%") and STATEMENTS.fullmatch(_name(text)):
        for lead, body in _bodies(text):
            tree = _tree(body)
            if tree is not None and [type(each) for each in tree.body] == [ast.Expr]:
                return " " * lead + body
    return UNKNOWN[: len(text)] + blanked(text[len(UNKNOWN) :])


def _filled(text: str) -> str:
    """A statement that does nothing, and blanks."""
    return "0" + blanked(text[1:])


def _bodies(line: str) -> Iterator[tuple[int, str]]:
    """What may be the Python of a magic, and where it starts: behind the name, behind its options."""
    words = list(re.finditer(r"\S+", line))
    for word in words[1:]:
        yield word.start(), line[word.start() :]
        if not words[1].group().startswith("-"):
            return


def _tree(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at

"""JSON and YAML read by places: what each key holds, and where key and value stand in the text.

JSON as DeepSpeed reads it (hjson): comments, commas before a closing bracket and bare keys are allowed. Of
YAML, mappings in block form and in one line are read, which is how configurations are written; the value of
anything else (anchors, lists, texts over several lines) is OPAQUE.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from msgspec import Struct, field

_SPACE = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|#[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\r\n]|\\.)*"')
_WORD = re.compile(r"[A-Za-z_$][\w.$-]*")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_LEFT_OPEN = re.compile(
    r"\{\{.*?\}\}|\$\{\w+\}|\$\w+|<\w+>"
    r"|(?!(?:TRUE|FALSE|NULL|NONE|NAN|YES|NO|ON|OFF)\b)[A-Z](?=\w*_|[A-Z\d]*\b)\w*"
)
"""What a template has in place of a value, until a program fills it in; TRUE is no place left open."""
_LITERALS = {"true": True, "false": False, "null": None}
_ROW = re.compile(r"^(?P<indent> *)(?P<key>\"[^\"\n]*\"|'[^'\n]*'|[A-Za-z_][\w.-]*) *:(?=[ \n]|$)")
_FLOW_KEY = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'|[A-Za-z_][\w.-]*")
_BLOCK_TEXT = re.compile(r"[|>][+-]?\d*\Z")
_YAML = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
MAX_DEPTH = 60

Scalar = str | int | float | bool | None


class Opaque:
    """The value of what is not read."""

    __slots__ = ()


OPAQUE = Opaque()
OPEN = "auto"
"""The value of what a template leaves open, as of what DeepSpeed takes from elsewhere."""


class BrokenTextError(ValueError):
    """The text is not what it should be; `at` is the place, as an offset."""

    def __init__(self, reason: str, at: int) -> None:
        super().__init__(reason)
        self.at = at


class Entry(Struct):
    """A value of a mapping, and the characters of its key and of itself."""

    key: tuple[int, int]
    value: Tree | Scalar | Opaque
    place: tuple[int, int]


class Tree(Struct):
    """A mapping."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def get(self, *names: str) -> Entry | None:
        """The entry at the end of some keys, None where there is none."""
        found: Entry | None = None
        here: object = self
        for name in names:
            found = here.entries.get(name) if isinstance(here, Tree) else None
            if found is None:
                return None
            here = found.value
        return found

    def trees(self) -> Iterator[Tree]:
        """This mapping and all below it, through mappings."""
        yield self
        for each in self.entries.values():
            if isinstance(each.value, Tree):
                yield from each.value.trees()

    def add(self, name: str, entry: Entry) -> None:
        """Take an entry in. Raises BrokenTextError where the key is there already."""
        if name in self.entries:
            raise BrokenTextError(f"the key {name!r} is there twice", entry.key[0])
        self.entries[name] = entry


def read_json(text: str) -> Tree:
    """The mapping that a JSON text is. Raises BrokenTextError."""
    at = _after_space(text, 0)
    if not text.startswith("{", at):
        raise BrokenTextError("it is no JSON object", at)
    tree, end = _object(text, at, 0)
    end = _after_space(text, end)
    if end < len(text):
        raise BrokenTextError("there is something behind the JSON object", end)
    return tree


def _object(text: str, at: int, depth: int) -> tuple[Tree, int]:
    if depth > MAX_DEPTH:
        raise BrokenTextError("it is nested too deeply", at)
    tree, at = Tree(), _after_space(text, at + 1)
    while not text.startswith("}", at):
        match = _STRING.match(text, at) or _WORD.match(text, at)
        if match is None:
            raise BrokenTextError("a key is expected here", at)
        place, name = match.span(), match.group()
        at = _after_space(text, match.end())
        if not text.startswith(":", at):
            raise BrokenTextError("`:` is expected here", at)
        start = _after_space(text, at + 1)
        value, end = _value(text, start, depth)
        tree.add(_said(name), Entry(place, value, (start, end)))
        at = _next(text, end, "}")
    return tree, at + 1


def _value(text: str, at: int, depth: int) -> tuple[Tree | Scalar | Opaque, int]:
    match = _LEFT_OPEN.match(text, at)
    if match is not None:
        return OPEN, match.end()
    if text.startswith("{", at):
        return _object(text, at, depth + 1)
    if text.startswith("[", at):
        if depth > MAX_DEPTH:
            raise BrokenTextError("it is nested too deeply", at)
        at = _after_space(text, at + 1)
        while not text.startswith("]", at):
            _, at = _value(text, at, depth + 1)
            at = _next(text, at, "]")
        return OPAQUE, at + 1
    match = _STRING.match(text, at)
    if match is not None:
        return _said(match.group()), match.end()
    match = _NUMBER.match(text, at)
    if match is not None:
        return float(match.group()), match.end()
    match = _WORD.match(text, at)
    if match is not None and match.group() in _LITERALS:
        return _LITERALS[match.group()], match.end()
    raise BrokenTextError("a value is expected here", at)


def _said(string: str) -> str:
    if not string.startswith('"'):
        return string
    try:
        return str(json.loads(string))
    except ValueError:
        return string[1:-1]


def _next(text: str, at: int, closing: str) -> int:
    at = _after_space(text, at)
    if text.startswith(closing, at):
        return at
    if not text.startswith(",", at):
        raise BrokenTextError(f"`,` or `{closing}` is expected here", at)
    return _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def read_yaml(text: str) -> Tree:
    """The mapping that a YAML text is, as far as it is read. Raises BrokenTextError."""
    top = Tree()
    if "{{" in text or "{%" in text:
        return top  # a template, which is no YAML yet
    around: list[tuple[int, Tree]] = [(0, top)]
    waiting: tuple[int, Entry] | None = None  # a key without a value, and its indentation
    hidden = -1  # what is indented further is part of a text or of a list
    start = 0
    for line in text.splitlines(keepends=True):
        begin, start = start, start + len(line)
        said = line[: comment_at(line)].rstrip()
        indent = len(said) - len(said.lstrip(" "))
        if not said.strip() or (hidden >= 0 and indent > hidden):
            continue
        hidden = -1
        if said[indent] == "\t":
            raise BrokenTextError("a tab cannot indent in YAML", begin + indent)
        match = _ROW.match(said)
        if match is None:
            if indent == 0 and said[:3] in ("---", "..."):
                if top.entries:
                    return top  # the first document is the configuration
                continue
            hidden = indent  # an item of a list, a text over several lines
            if waiting is not None:
                waiting[1].value, hidden = OPAQUE, min(indent, waiting[0])
            waiting = None
            continue
        if waiting is not None and indent > waiting[0]:
            inner = Tree()
            waiting[1].value = inner
            around.append((indent, inner))
        waiting = None
        while around[-1][0] > indent:
            around.pop()
        if around[-1][0] != indent:
            raise BrokenTextError("the indentation fits no line above", begin + indent)
        key, name = match.span("key"), match.group("key").strip("\"'")
        rest = said[match.end() :]
        at = begin + match.end() + len(rest) - len(rest.lstrip())
        entry = Entry((begin + key[0], begin + key[1]), None, (at, begin + len(said)))
        around[-1][1].add(name, entry)
        rest = rest.strip()
        if not rest:
            waiting = indent, entry
        elif _BLOCK_TEXT.match(rest) or rest[0] in "&*!":
            entry.value, hidden = OPAQUE, indent
        elif rest[0] == "{":
            entry.value = _flow(text, at, begin + len(said))
        else:
            entry.value = _scalar(rest)
    return top


def _flow(text: str, at: int, end: int) -> Tree | Opaque:
    """`{enabled: true, loss_scale: 0}` in one line; OPAQUE where there is more to it."""
    tree, at = Tree(), at + 1
    inside = text[at : end - 1]
    if text[end - 1] != "}" or any(each in inside for each in "{}[]\n&*!"):
        return OPAQUE
    for part in inside.split(",") if inside.strip() else ():
        key = _FLOW_KEY.search(part)
        colon = part.find(":")
        if key is None or colon < 0:
            return OPAQUE
        value = part[colon + 1 :]
        begin = at + colon + 1 + len(value) - len(value.lstrip())
        place = begin, begin + len(value.strip())
        spot = at + key.start(), at + key.end()
        tree.add(key.group().strip("\"'"), Entry(spot, _scalar(value.strip()), place))
        at += len(part) + 1
    return tree


def _scalar(said: str) -> Scalar | Opaque:
    if said[:1] in "\"'" and len(said) > 1 and said[-1] == said[0]:
        return said[1:-1]
    if said.lower() in _YAML:
        return _YAML[said.lower()]
    if said.lower() in ("null", "~", ""):
        return None
    if _NUMBER.fullmatch(said):
        return float(said)
    return OPAQUE if said[0] in "[&*!|>@`" else said


def comment_at(line: str) -> int:
    """Where the comment of a YAML line begins; the length of the line without one."""
    quote = ""
    for place, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and (not place or line[place - 1] in " :{,[-"):
            quote = letter
        elif letter == "#" and (not place or line[place - 1] in " \t"):
            return place
    return len(line)

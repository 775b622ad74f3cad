"""What a comment says to mpaudit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from functools import lru_cache

from msgspec import Struct

from mpaudit.rule import prefixes

_DIRECTIVE = re.compile(
    r"#\s*mpaudit\s*:\s*(?P<kind>file-ignore|ignore|disable|enable)(?![\w-])"
    r"(?P<list>\s*\[(?P<words>[^\]]*)\])?"
    r"|#\s*noqa\s*:\s*(?P<codes>[a-z]+\d+(?:[,\s]+[a-z]+\d+)*)",
    re.IGNORECASE,
)
_NEXT = re.compile(r"#\s*[A-Za-z]")  # another remark in the same comment; "#12" is not


def gate(prefixes: frozenset[str]) -> re.Pattern[str]:
    """What a text holds that may have a directive in it; `prefixes` are the letters of codes."""
    return _compiled(rf"mpaudit\s*:|noqa\s*:[^\r\n]*\b(?:{_any(prefixes)})\d")


def _code(prefixes: frozenset[str]) -> re.Pattern[str]:
    return _compiled(rf"(?:{_any(prefixes)})\d+")


def _any(prefixes: frozenset[str]) -> str:
    return "|".join(sorted(prefixes))


@lru_cache(maxsize=16)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


class Kind(Enum):
    """What a directive silences: a line, a file, what follows; or that it ends what was begun."""

    IGNORE = "ignore"
    FILE = "file-ignore"
    DISABLE = "disable"
    ENABLE = "enable"
    NOQA = "noqa"


class Directive(Struct, frozen=True):
    """One directive; places are offsets in the text that holds its comment.

    `words` are the codes and names it lists, `others` the codes of other tools in a `noqa`. `listed`
    is where the list stands, None where there is none; `stretch` is all that goes with the
    directive: from its `#` to the end of its reason.
    """

    kind: Kind
    written: str
    words: tuple[str, ...]
    others: tuple[str, ...]
    listed: tuple[int, int] | None
    stretch: tuple[int, int]


def directives(comment: str, offset: int) -> Iterator[Directive]:
    """The directives of a comment that stands at `offset`."""
    code = _code(prefixes())
    for match in _DIRECTIVE.finditer(comment):
        group = "codes" if match["codes"] is not None else "words"
        words = [word for word in re.split(r"[\s,]+", match[group] or "") if word]
        kind = Kind.NOQA if group == "codes" else Kind(match["kind"].lower())
        ours = [word for word in words if kind is not Kind.NOQA or code.fullmatch(word)]
        if kind is Kind.NOQA and not ours:
            continue
        following = _NEXT.search(comment, match.end())
        end = following.start() if following else len(comment)
        listed = None
        if match[group] is not None:
            listed = offset + match.start(group), offset + match.end(group)
        yield Directive(
            kind,
            match.group(),
            tuple(ours),
            tuple(word for word in words if word not in ours),
            listed,
            (offset + match.start(), offset + end),
        )

"""From what a person types, a code, a name or an error message, to the rules that explain it."""

from __future__ import annotations

from mpaudit.config import nearest
from mpaudit.errors import MpauditError
from mpaudit.rule import Rule, catalogue, find

SHORTEST = 12  # characters of an error text; anything shorter is in too many messages


def look_up(words: str) -> list[Rule]:
    """The rules meant by `words`, the best first.

    `words` is a code or name, or an error text: a message of a rule, a part of one, or a traceback
    that holds one. Case and white space do not count. Raises MpauditError if nothing fits.
    """
    if rule := find(words):
        return [rule]
    if found := by_message(words):
        return found
    close = nearest(words.strip())
    hint = f"the nearest are {', '.join(close)}" if close else "see `mpaudit rules`"
    shown = " ".join(words.split())
    shown = shown if len(shown) <= 80 else f"{shown[:79]}…"
    raise MpauditError(f"there is no rule {shown!r}, and no rule explains such an error; {hint}")


def by_message(text: str) -> list[Rule]:
    """The rules whose messages occur in `text` or hold it, the longest agreement first."""
    asked = _plain(text)
    agreed: list[tuple[int, Rule]] = []
    for rule in catalogue().values():
        messages = map(_plain, rule.messages)
        lengths = [min(len(m), len(asked)) for m in messages if m and (m in asked or asked in m)]
        if lengths and max(lengths) >= min(SHORTEST, *map(len, map(_plain, rule.messages))):
            agreed.append((max(lengths), rule))
    return [rule for _, rule in sorted(agreed, key=lambda each: -each[0])]


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip("\"'`.!: ")

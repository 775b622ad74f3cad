"""Colours for a terminal; without one the same text stays plain."""

from __future__ import annotations

from collections.abc import Callable

Paint = Callable[[str, str], str]
"""`paint(text, style)`: `text` in that style."""

_CODES = {
    "error": "1;91",
    "warning": "1;93",
    "advice": "1;96",
    "frame": "1;94",
    "strong": "1",
    "good": "1;92",
    "removed": "31",
    "added": "32",
}


def painter(on: bool) -> Paint:
    """The function that paints, or the one that leaves text as it is."""
    return _paint if on else _plain


def _paint(text: str, style: str) -> str:
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if text else text


def _plain(text: str, style: str) -> str:
    del style
    return text

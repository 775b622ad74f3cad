"""Repairs as text edits, how safe they are, and how they are applied."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from msgspec import Struct
from msgspec.structs import force_setattr


class Safety(Enum):
    """How far a repair may be trusted; the values are ruff's words.

    SAFE keeps what correct code computes, UNSAFE may change it and says how (`## Fix safety` of the
    rule's page), SUGGESTION is shown and never applied.
    """

    SAFE = "safe"
    UNSAFE = "unsafe"
    SUGGESTION = "display-only"


class Edit(Struct, frozen=True, order=True):
    """Replace the characters `start` to `end` (exclusive, 0-based) of a file's decoded text."""

    start: int
    end: int
    content: str


class Fix(Struct, frozen=True):
    """Edits that belong together: all of them or none. `message` says what they do, in a phrase."""

    message: str
    edits: tuple[Edit, ...]
    safety: Safety

    def __post_init__(self) -> None:
        force_setattr(self, "edits", tuple(sorted(set(self.edits))))


def chosen(fixes: Iterable[Fix]) -> tuple[tuple[Edit, ...], tuple[Fix, ...]]:
    """The fixes that touch no stretch an earlier one touches, and the edits of them all.

    What overlaps waits for the next round. Equal fixes (one coupled repair offered by several
    findings) count once.
    """
    taken: list[Edit] = []
    applied: list[Fix] = []
    for fix in dict.fromkeys(fixes):
        if any(_overlap(new, old) for new in fix.edits for old in taken):
            continue
        taken.extend(fix.edits)
        applied.append(fix)
    return tuple(taken), tuple(applied)


def apply(text: str, fixes: Iterable[Fix]) -> tuple[str, tuple[Fix, ...]]:
    """The text with the fixes that can be applied together, and which these are."""
    edits, applied = chosen(fixes)
    return rewrite(text, edits), applied


def rewrite(text: str, edits: Iterable[Edit]) -> str:
    """`text` with edits, of which no two touch the same stretch."""
    pieces: list[str] = []
    end = len(text)
    for edit in sorted(edits, reverse=True):
        pieces.append(text[edit.end : end])
        pieces.append(edit.content)
        end = edit.start
    pieces.append(text[:end])
    return "".join(reversed(pieces))


def _overlap(one: Edit, other: Edit) -> bool:
    if one.start == one.end and other.start == other.end:
        return one.start == other.start
    return one.start < other.end and other.start < one.end

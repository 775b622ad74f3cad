"""What a rule of your own is made of: this module is the stable part of mpaudit, docs/plugins.md its manual.

A plugin is a module that holds `plugin = Plugin(...)`, with at least one page, which says what the rule
is called, and something that sees it:

- a check, a function that is given each `Module` (its text, its tree, and by `Names.of(module)` what
  library object a name means) and yields a `Problem` with a `Fix` or None;
- a protocol, a state machine that is fed the `event`s of every path through the program, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from mpaudit import event
from mpaudit.event import Event, Ref, Region
from mpaudit.finding import Position, Problem, Related, Span
from mpaudit.fix import Edit, Fix, Safety
from mpaudit.protocols.protocol import Broken, Kept, Noted, Protocol, Verdict
from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names

__all__ = [
    "Broken",
    "Check",
    "Edit",
    "Event",
    "Fix",
    "Kept",
    "Module",
    "Names",
    "Noted",
    "Plugin",
    "Position",
    "Problem",
    "Protocol",
    "Ref",
    "Region",
    "Related",
    "Safety",
    "Span",
    "Verdict",
    "event",
]

Check = Callable[[Module], Iterator[tuple[Problem, Fix | None]]]


class Plugin(Struct, frozen=True):
    """What a module brings.

    `pages` are paths of Markdown pages, from the folder of the module. `words` are texts that concern its
    rules: a file is looked at if it mentions mixed precision, or one of them.
    """

    pages: Sequence[str]
    checks: Sequence[Check] = ()
    protocols: Sequence[type[Protocol]] = ()
    words: Sequence[str] = ()

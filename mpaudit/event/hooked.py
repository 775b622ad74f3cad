"""Hooks that a script puts on the gradients of its parameters."""

from __future__ import annotations

from mpaudit.event.core import Event, Ref
from mpaudit.finding import Span


class GradientsHooked(Event, frozen=True, kw_only=True):
    """From now on every backward pass edits gradients by `how` ("clamp", "nan_to_num"); "" takes it back.

    `hook` is where the hook was registered, `optimizers` own the gradients as far as known (None: not
    known), `places` are those of the calls that led there, innermost first.
    """

    how: str
    hook: Span
    optimizers: tuple[Ref, ...] | None = None
    places: tuple[Span, ...] = ()

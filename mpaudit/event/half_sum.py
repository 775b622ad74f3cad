"""Sums in 16 bits."""

from __future__ import annotations

from mpaudit.event.core import Event, Ref
from mpaudit.finding import Related, Span


class SquaresReduced(Event, frozen=True, kw_only=True):
    """The squares of a float16 tensor whose values nothing bounds were summed or averaged in float16.

    `operation` is "sum", "mean" or "norm", `squared` where the squares are taken, `because` how the
    tensor came to its dtype; `library` is "torch" or "tensorflow".
    """

    operation: str
    tensor: Ref
    squared: Span
    because: tuple[Related, ...] = ()
    library: str = "torch"

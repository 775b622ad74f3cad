"""Models of 16 bits that a library trains with loss scaling."""

from __future__ import annotations

from dataclasses import dataclass

from mpaudit.event.core import Event
from mpaudit.finding import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfTrained(Event):
    """`trainer`, which scales losses for float16, trains a model whose parameters were cast to it.

    `cast` is where the model was cast, `asked` where the trainer was told to scale.
    """

    trainer: str
    cast: Span
    asked: Span | None = None

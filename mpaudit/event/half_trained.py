"""Models of 16 bits that a library trains with loss scaling."""

from __future__ import annotations

from mpaudit.event.core import Event
from mpaudit.finding import Span


class HalfTrained(Event, frozen=True, kw_only=True):
    """`trainer`, which scales losses for float16, trains a model whose parameters were cast to it.

    `cast` is where the model was cast, `asked` where the trainer was told to scale.
    """

    trainer: str
    cast: Span
    asked: Span | None = None


class HalfVariableTrained(Event, frozen=True, kw_only=True):
    """A variable of TensorFlow or a weight of Keras that is 16 bits itself is trained.

    `at` is where it is made, `trained` where its gradient is taken or its model is fitted.
    """

    variable: str
    dtype: str
    trained: Span

"""What is added up, step by step, in 16 bits."""

from __future__ import annotations

from collections.abc import Hashable

from mpaudit.event.core import Event, Ref
from mpaudit.finding import Related, Span


class HalfAdded(Event, frozen=True, kw_only=True):
    """Something was added to a single number that the script keeps in 16 bits.

    `root` is the number as it was made, whatever was added to it since; `repeated` says that a library
    runs the code for every batch.
    """

    tensor: Ref
    root: Hashable
    dtype: str
    because: tuple[Related, ...] = ()
    repeated: bool = False


class HalfAverageMoved(Event, frozen=True, kw_only=True):
    """A moving average of parameters that are kept in 16 bits took a step.

    `share` is the part of the new parameters in it, `cast` where the average became 16 bits.
    """

    tensor: Ref
    dtype: str
    share: float
    cast: Span | None
    because: tuple[Related, ...] = ()


class HalfMetricMade(Event, frozen=True, kw_only=True):
    """A metric of Keras was built with a `dtype` of 16 bits, in which it counts and adds up."""

    metric: str
    dtype: str

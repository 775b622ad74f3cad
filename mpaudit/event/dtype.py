"""Tensors of 16 bits, and what they meet."""

from __future__ import annotations

from dataclasses import dataclass

from mpaudit.event.core import Event, Ref, Region
from mpaudit.finding import Related, Span


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantMet(Event):
    """A constant met a tensor of 16 bits.

    `operation` is the name of the function or method, or that of the operator ("Add", "Mult"); `text`
    is how the user spells the constant, `because` how the tensor came to its dtype.
    """

    tensor: Ref
    dtype: str
    value: float
    text: str
    operation: str
    because: tuple[Related, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InputHalved(Event):
    """A model that is trained under autocast was given an input cast to float16 by hand.

    `at` is the cast, `called` the call of the model.
    """

    model: Ref
    called: Span
    region: Region

"""Tensors of 16 bits, and what they meet."""

from __future__ import annotations

from mpaudit.event.core import Event, Ref, Region
from mpaudit.finding import Related, Span


class ConstantMet(Event, frozen=True, kw_only=True):
    """A constant met a tensor of 16 bits.

    `operation` is the name of the function or method, or that of the operator ("Add", "Mult"); `text`
    is how the user spells the constant, `because` how the tensor came to its dtype. `library` is
    "torch", or "tensorflow", which converts the constant to the tensor's dtype first.
    """

    tensor: Ref
    dtype: str
    value: float
    text: str
    operation: str
    because: tuple[Related, ...] = ()
    library: str = "torch"


class InputHalved(Event, frozen=True, kw_only=True):
    """A model that is trained under autocast was given an input cast to float16 by hand.

    `at` is the cast, `called` the call of the model.
    """

    model: Ref
    called: Span
    region: Region


class HalfLoss(Event, frozen=True, kw_only=True):
    """A loss was computed outside of autocast regions, in the 16 bits that its input came out in.

    `output` is that input, `because` how it came to its dtype.
    """

    loss: str
    output: Ref
    dtype: str
    because: tuple[Related, ...] = ()


class HalfKept(Event, frozen=True, kw_only=True):
    """An operation in a region that is switched off got a tensor that autocast had made 16 bits.

    `off` is where that region is entered, `source` where the tensor was computed.
    """

    operation: str
    tensor: Ref
    dtype: str
    off: Span
    source: Span | None
    because: tuple[Related, ...] = ()


class DtypesMixed(Event, frozen=True, kw_only=True):
    """Values of one dtype are written by index into a tensor of another.

    `operation` is the method, or "[]" for an assignment; `because` says how both came to their dtypes.
    """

    operation: str
    target: Ref
    target_dtype: str
    source: Ref
    source_dtype: str
    because: tuple[Related, ...] = ()

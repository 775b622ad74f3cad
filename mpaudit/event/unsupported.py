"""Tensors of 16 bits given to what has no 16-bit version."""

from __future__ import annotations

from mpaudit.event.core import Event, Ref
from mpaudit.finding import Related


class HalfGiven(Event, frozen=True, kw_only=True):
    """An operation of torch without a 16-bit kernel, or NumPy, was given a tensor of 16 bits.

    `operation` is the function or method as the user calls it, `because` how the tensor came to its
    dtype; `held` says that the tensor stands in a list, or is not spelled in the call.
    """

    operation: str
    tensor: Ref
    dtype: str
    to_numpy: bool
    method: bool
    held: bool = False
    because: tuple[Related, ...] = ()

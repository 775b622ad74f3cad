"""Tensors of 16 bits in Keras: where they meet others, and where they go."""

from __future__ import annotations

from dataclasses import dataclass

from mpaudit.event.core import Event, Ref
from mpaudit.finding import Related


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorsMixed(Event):
    """Within the `call` of a layer, an operation of TensorFlow got tensors of two dtypes.

    `pinned` is the one whose dtype the source gives, `policy` the one that has its dtype from the
    policy; which is which is a guess where both are the source's.
    """

    operation: str
    pinned: Ref
    pinned_dtype: str
    policy: Ref
    policy_dtype: str
    because: tuple[Related, ...] = ()

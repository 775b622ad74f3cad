"""Optimizers that step parameters of 16 bits."""

from __future__ import annotations

from mpaudit.event.core import Event, Ref
from mpaudit.finding import Span


class HalfStep(Event, frozen=True, kw_only=True):
    """A plain optimizer of torch stepped a model whose parameters were cast to 16 bits.

    `cast` is where that was done, `made` where the optimizer was built, `maker` its class; `eps` is the
    constant it adds to its denominator, None where it has none, computes in float32, or it is not known.
    `chosen` says that the cast stands under a condition, `once` that the optimizer steps but once.
    """

    optimizer: Ref
    model: str
    dtype: str
    cast: Span
    made: Span
    maker: str
    eps: float | None = None
    chosen: bool = False
    once: bool = False


class HalfUnscaled(Event, frozen=True, kw_only=True):
    """A live scaler has to unscale the float16 gradients of a model that was cast: it refuses to.

    `cast` is where the model was cast (`chosen`: under a condition), `made` where its optimizer was
    built, `maker` its class.
    """

    scaler: Ref
    optimizer: Ref
    cast: Span
    made: Span
    maker: str
    chosen: bool = False

"""Gradients whose infinities and nans were replaced."""

from __future__ import annotations

from mpaudit.event.core import Event, Ref


class GradientsSanitized(Event, frozen=True, kw_only=True):
    """What is not finite in gradients was replaced, by `how` ("nan_to_num").

    `optimizers` own the gradients as far as known (None: not known).
    """

    how: str
    optimizers: tuple[Ref, ...] | None = None

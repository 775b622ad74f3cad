"""What is known of a tensor on its way from a loss to the optimizer, kept as its attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from mpaudit.event import Ref

SCALED = "_mpaudit_scaled_by"
SCALINGS = "_mpaudit_scalings"
UNSCALED = "_mpaudit_unscaled"
GRADIENTS = "_mpaudit_gradients"


def tag(value: Any, name: str, fact: Any) -> None:
    """Attach a fact to a tensor; what takes no attributes goes without."""
    if isinstance(value, tf.Tensor | tf.IndexedSlices):
        setattr(value, name, fact)


def gradients(given: Sequence[Any]) -> Ref | None:
    """What these gradients are to the protocols, if they all came by the same way."""
    refs = {getattr(each, GRADIENTS, None) for each in given if each is not None}
    return next(iter(refs)) if len(refs) == 1 else None

"""What a run exchanges in the optimizers of every framework, so that a wrong scale shows."""

from __future__ import annotations

import functools
from typing import Any

NAMES = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta")
"""The optimizers whose steps do not depend on a constant factor in the gradients."""


def at_one(scaler: Any, keyword: str) -> None:
    """A class of loss scalers begins at 1, whatever its constructor is told by `keyword`."""
    made = scaler.__init__

    @functools.wraps(made)
    def init(self: Any, first: Any = None, *_: Any, **options: Any) -> None:
        given = () if first is None else (first,)
        made(self, *given, **{**options, keyword: 1.0})

    scaler.__init__ = init

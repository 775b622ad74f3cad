"""Loss scaling over parameters of which every rank holds a part only."""

from __future__ import annotations

from mpaudit.event.core import Event, Ref
from mpaudit.finding import Related


class PlainScalerStep(Event, frozen=True, kw_only=True):
    """A scaler that knows of its own rank only, built at `at`, steps or unscales an optimizer.

    `sharded` says that the optimizer holds parameters of FSDP, `same_file` that those were wrapped in the
    file where the scaler was built.
    """

    scaler: Ref
    sharded: bool
    same_file: bool = True
    because: tuple[Related, ...] = ()

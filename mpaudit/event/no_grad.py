"""Forward passes with and without gradients that share the weights autocast has cast."""

from __future__ import annotations

from collections.abc import Hashable

from mpaudit.event.core import Event, Ref, Region


class CachingForward(Event, frozen=True, kw_only=True):
    """A model was called in a region that casts its weights and keeps the copies.

    `entry` is this very entry of the outermost region, `region` that region; `gradients` says whether
    the forward pass records any. torch casts as it did before the copies were made with gradients
    in every case.
    """

    model: Ref
    entry: Hashable
    region: Region
    gradients: bool

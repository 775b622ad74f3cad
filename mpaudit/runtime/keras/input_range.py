"""Inputs beyond the range of float16, told before a layer or model casts them."""

from __future__ import annotations

from typing import Any

from mpaudit.finding import Moment, Problem, Span
from mpaudit.runtime.keras.family import Family
from mpaudit.runtime.keras.place import place
from mpaudit.runtime.record import LARGEST

WIDER = ("float32", "float64")
CALLERS = ("fit", "train_on_batch", "__call__")


def casts(family: Family, layer: Any) -> bool:
    """Whether a layer, or a model, casts what it is given to float16."""
    return family.takes(layer) == "float16"


def caller() -> Span | None:
    """Where the user's code trains the model, or calls it."""
    return place(*CALLERS)


def beyond(at: Span, path: str, kind: str, amax: float) -> Problem:
    """MP520: `amax` is the largest finite magnitude that came to the layer."""
    limit = LARGEST["float16"]
    return Problem(
        rule="half-input-range",
        span=at,
        message=f"inputs of up to {amax:.4g} come to `{path}`, which casts them to float16",
        consequence=f"beyond {limit:.6g} they are inf before they meet the first weight",
        moment=Moment(0, path, kind),
    )

"""What the output of a Keras layer is: logits, probabilities, or not known."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from mpaudit.event import Ref
from mpaudit.finding import Span

MARK = "_mpaudit_mark"

_UNCHANGED = frozenset({"Dropout", "Flatten", "Identity", "Permute", "RepeatVector", "Reshape"})
_ACTIVATIONS = frozenset({"softmax", "log_softmax", "sigmoid"})


class Mark(Struct, frozen=True):
    """What is known of a tensor: the layer it left, and what it is, as `LossComputed.got` says."""

    layer: Ref
    path: str
    got: str | None
    shown: Span | None


def mark_of(tensor: object) -> Mark | None:
    """What is known of a tensor of TensorFlow."""
    found = getattr(tensor, MARK, None)
    return found if isinstance(found, Mark) else None


def nature_of(function: str) -> str | None:
    """What an activation of this name gives, None if that is not known."""
    return function if function in _ACTIVATIONS else None


def nature(
    layer: Any, kind: str, made: Span | None, before: Mark | None
) -> tuple[str | None, Span | None]:
    """What the output of a layer is ("logits", "softmax", ...) and where that was decided.

    `kind` is the layer's class, `made` where it was made, `before` what its first input is.
    """
    activation = getattr(getattr(layer, "activation", None), "__name__", None)
    if kind == "Softmax":
        return "softmax", made
    if activation in _ACTIVATIONS:
        return activation, made
    if activation == "linear" and hasattr(layer, "kernel"):
        return "logits", made
    unchanged = kind in _UNCHANGED or (kind == "Activation" and activation == "linear")
    return (before.got, before.shown) if unchanged and before else (None, None)

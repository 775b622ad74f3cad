"""Models that are called, and losses of what comes out of them."""

from __future__ import annotations

from mpaudit.event.core import Event, Ref, Region
from mpaudit.finding import Span


class Forward(Event, frozen=True, kw_only=True):
    """A model was called. `model_device` is the device type of its parameters, as far as known."""

    model: Ref
    model_made: Span | None
    model_device: str | None
    region: Region | None


class LossComputed(Event, frozen=True, kw_only=True):
    """A loss function was applied.

    `wants` is what the loss takes, `got` what the prediction is: "logits", "softmax", "log_softmax",
    "sigmoid" or None (not known). `shown` is where the prediction's last activation stands, `made`
    where the loss was built, `output` the Keras layer that the prediction left, as it left it.
    `region` is the enabled autocast region that the call itself stands in. `unseen`: the prediction
    comes from a caller, or through a model of a caller, whom nobody has seen. `by_hand`: no loss of a
    framework computed it, and `at` is where it is differentiated.
    """

    loss: str
    wants: str | None
    got: str | None
    shown: Span | None = None
    made: Span | None = None
    output: Ref | None = None
    region: Region | None = None
    unseen: bool = False
    by_hand: bool = False

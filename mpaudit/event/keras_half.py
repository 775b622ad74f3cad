"""Tensors of 16 bits in Keras: where they meet others, and where they go."""

from __future__ import annotations

from mpaudit.event.core import Event, Ref
from mpaudit.finding import Related, Span


class TensorsMixed(Event, frozen=True, kw_only=True):
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


class RawLoss(Event, frozen=True, kw_only=True):
    """A loss that operations of TensorFlow compute from a model's float16 output is differentiated.

    `at` is the first of these operations, `called` where the model is called (None: not known).
    """

    output: Ref
    called: Span | None
    differentiated: Span
    because: tuple[Related, ...] = ()


class HalfLossMade(Event, frozen=True, kw_only=True):
    """A Keras loss was built with a `dtype` that makes it compute in float16."""

    loss: str


class HalfLossGiven(Event, frozen=True, kw_only=True):
    """What a loss is given was cast to float16 before.

    `at` is the cast, `part` is "prediction" or "labels", `computed` where the loss is computed.
    """

    loss: str
    part: str
    computed: Span


class PredictionsUsed(Event, frozen=True, kw_only=True):
    """Predictions of 16 bits were used outside of Keras, or by a metric of Keras.

    `what` is the function, `how` is "summed", "saved", "scored", "framed" or "measured"; `layer` is
    the one they left, `predicted` where they became an array (None for a metric).
    """

    layer: Ref
    dtype: str
    what: str
    how: str
    predicted: Span | None


class InputBeyondHalf(Event, frozen=True, kw_only=True):
    """A layer that computes in float16 is given, or is made for, values beyond the range of float16.

    `how` is "given" (values that reach `value`), "scaled" (it divides by `value`), "spread" (their
    variance is `value`) or "centred" (their mean is); `layer` is the kind of the layer.
    """

    layer: str
    how: str
    value: float
    because: tuple[Related, ...] = ()

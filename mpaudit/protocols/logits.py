"""Logits or probabilities, not both: what a loss takes, and what it is given."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event, LossComputed
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

TORCH = ("CrossEntropyLoss", "cross_entropy")
KERAS = {
    "CategoricalCrossentropy": ("softmax",),
    "categorical_crossentropy": ("softmax",),
    "SparseCategoricalCrossentropy": ("softmax",),
    "sparse_categorical_crossentropy": ("softmax",),
    "CategoricalFocalCrossentropy": ("softmax",),
    "categorical_focal_crossentropy": ("softmax",),
    "softmax_cross_entropy_with_logits": ("softmax",),
    "sparse_softmax_cross_entropy_with_logits": ("softmax",),
    "BinaryCrossentropy": ("sigmoid", "softmax"),
    "binary_crossentropy": ("sigmoid", "softmax"),
    "BinaryFocalCrossentropy": ("sigmoid", "softmax"),
    "binary_focal_crossentropy": ("sigmoid", "softmax"),
    "sigmoid_cross_entropy_with_logits": ("sigmoid", "softmax"),
}
"""The losses of Keras and TensorFlow that can take logits, and what they must not be given then."""


class LogitsProtocol(Protocol):
    """MP401 and MP403; every loss is judged by itself."""

    __slots__ = ()

    takes = (LossComputed,)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one loss."""
        if not isinstance(event, LossComputed):
            return
        if event.loss in TORCH:
            if event.got in ("softmax", "log_softmax"):
                yield _softmax_before_cross_entropy(event)
            else:
                yield Kept("softmax-before-cross-entropy", event.at)
        elif event.wants == "logits" and event.got in KERAS.get(event.loss, ()):
            yield _softmax_with_from_logits(event)


def _softmax_before_cross_entropy(event: LossComputed) -> Broken:
    consequence = (
        "softmax is applied twice: the loss of a 10-class problem cannot fall below 1.461, and "
        "gradients vanish for confident predictions"
        if event.got == "softmax"
        else "log_softmax is computed twice; NLLLoss takes what the model returns"
    )
    related = (Related(event.shown, f"{event.got} is applied here"),) if event.shown else ()
    return Broken(
        Problem(
            "softmax-before-cross-entropy",
            event.at,
            f"`{event.loss}` applies log_softmax itself, and is given the result of {event.got}",
            consequence,
            related,
        )
    )


def _softmax_with_from_logits(event: LossComputed) -> Broken:
    related = [] if event.shown is None else [Related(event.at, "the loss is computed here")]
    if event.made is not None and event.made != event.at:
        related.append(Related(event.made, "the loss is told to expect logits here"))
    consequence = (
        "softmax is applied twice: the loss of a 10-class problem cannot fall below 1.461"
        if event.got == "softmax"
        else "the sigmoid is applied twice: the loss of a sample cannot fall below 0.313"
    )
    told = "from_logits=True" if "_with_logits" not in event.loss else "logits"
    return Broken(
        Problem(
            "softmax-with-from-logits",
            event.shown or event.at,
            f"the output goes through {event.got}, and `{event.loss}` expects {told}"
            if told == "logits"
            else f"the output goes through {event.got}, and `{event.loss}` has `{told}`",
            f"{consequence}; in float32 TensorFlow's Keras undoes it with a warning, under mixed_float16 "
            "nothing does",
            tuple(related),
            (("output", str(event.shown)),) if event.shown is not None else (),
        )
    )

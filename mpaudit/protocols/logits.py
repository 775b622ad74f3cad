"""Logits or probabilities, not both: what a loss takes, and what it is given."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Event, LossComputed
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

SOFTMAX, LOGITS = "softmax-with-from-logits", "logits-without-from-logits"
TORCH = (
    "CrossEntropyLoss",
    "cross_entropy",
    "LabelSmoothingCrossEntropy",
    "SoftTargetCrossEntropy",
)
"""The losses of torch and timm that apply log_softmax themselves."""
TORCH_BINARY = (
    "BCEWithLogitsLoss",
    "binary_cross_entropy_with_logits",
    "MultiLabelSoftMarginLoss",
    "multilabel_soft_margin_loss",
    "sigmoid_focal_loss",
)
"""The losses of torch that apply the sigmoid themselves."""
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
    """MP401 to MP404; every loss is judged by itself."""

    __slots__ = ()

    takes = (LossComputed,)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one loss."""
        if not isinstance(event, LossComputed):
            return
        if event.loss in TORCH:
            yield _taken_for_logits(event, "softmax-before-cross-entropy", CROSS_ENTROPY)
        elif event.loss in TORCH_BINARY:
            yield _taken_for_logits(event, "sigmoid-before-bce-with-logits", BINARY)
        elif event.loss in KERAS and event.wants is not None:
            yield from _keras(event)


# A log_softmax before one that applies its own is needless, and not wrong: it changes no value.
CROSS_ENTROPY = {
    "softmax": "softmax is applied twice: the loss of a 10-class problem cannot fall below 1.461, and "
    "gradients vanish for confident predictions",
    "sigmoid": "logits from 0 to 1 cannot tell the classes apart: the loss of a 10-class problem cannot "
    "fall below 1.461",
}
BINARY = {
    "sigmoid": "the sigmoid is applied twice: the loss cannot fall below 0.313 for a positive sample and "
    "0.693 for a negative one, and the prediction of a negative one never falls below 0.5",
    "softmax": "probabilities are taken for logits: the loss cannot fall below 0.313 for a positive "
    "sample and 0.693 for a negative one",
    "log_softmax": "logarithms of probabilities are taken for logits: no sample is told with more than 50 % "
    "to be positive, and the loss of a positive one cannot fall below 0.693",
}


def _taken_for_logits(event: LossComputed, rule: str, consequences: dict[str, str]) -> Verdict:
    """A loss of torch that applies its activation itself, given what went through one already."""
    if event.got not in consequences:
        return Kept(rule, event.at, unseen=event.unseen)
    own = "log_softmax" if event.loss in TORCH else "the sigmoid"
    related = (Related(event.shown, f"{event.got} is applied here"),) if event.shown else ()
    return Broken(
        Problem(
            rule,
            event.at,
            f"`{event.loss}` applies {own} itself, and is given the result of {event.got}",
            consequences[event.got],
            related,
        )
    )


def _keras(event: LossComputed) -> Iterator[Verdict]:
    """A loss of Keras that says what it takes."""
    place = event.made or event.at
    if event.wants == "logits":
        yield Kept(LOGITS, place)
        if event.got in KERAS[event.loss]:
            yield _softmax_with_from_logits(event)
        elif event.got in ("logits", None):
            yield Kept(SOFTMAX, event.at, unseen=event.unseen)
    elif event.got == "logits":
        yield _logits_without_from_logits(event, place)
    else:
        yield Kept(LOGITS, place)
        if event.shown is not None:
            yield Kept(SOFTMAX, event.shown)


def _logits_without_from_logits(event: LossComputed, place: Span) -> Broken:
    related = (
        [] if event.shown is None else [Related(event.shown, "the output leaves as it is here")]
    )
    if place != event.at:
        related.append(Related(event.at, "the loss is computed here"))
    return Broken(
        Problem(
            LOGITS,
            place,
            f"the output leaves as logits, with no activation, and `{event.loss}` takes probabilities",
            "logits are clipped to [1e-7, 1 - 1e-7] as if they were probabilities: outside of it the "
            "gradient is exactly 0, and the training stands still",
            tuple(related),
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
    if event.loss.endswith("_with_logits"):
        told, rescue = "expects logits", ""
    else:
        told = "has `from_logits=True`"
        rescue = "; in float32 TensorFlow's Keras undoes it with a warning, under mixed_float16 nothing does"
    return Broken(
        Problem(
            SOFTMAX,
            event.shown or event.at,
            f"the output goes through {event.got}, and `{event.loss}` {told}",
            consequence + rescue,
            tuple(related),
            (("output", str(event.shown)),) if event.shown is not None else (),
        ),
        judged=event.at,
    )

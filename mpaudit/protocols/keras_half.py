"""Tensors of 16 bits in Keras where they do harm; every event is judged by itself."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import (
    Event,
    HalfLossGiven,
    HalfLossMade,
    InputBeyondHalf,
    RawLoss,
    TensorsMixed,
)
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Protocol, Verdict

PINNED = "hardcoded-layer-dtype"
HALF_LOSS = "half-loss-dtype"
RAW = "raw-loss-on-half-output"
RANGE = "half-input-range"
CALLED = "the model is called here"


class KerasHalfProtocol(Protocol):
    """MP507, MP514, MP515 and MP520."""

    __slots__ = ()

    takes = (TensorsMixed, RawLoss, HalfLossMade, HalfLossGiven, InputBeyondHalf)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one event."""
        match event:
            case TensorsMixed():
                yield _mixed(event)
            case RawLoss():
                yield _raw_loss(event)
            case HalfLossMade():
                yield _half_loss_made(event)
            case HalfLossGiven():
                yield _half_loss_given(event)
            case InputBeyondHalf():
                yield _beyond(event)


def _mixed(event: TensorsMixed) -> Broken:
    return Broken(
        Problem(
            PINNED,
            event.at,
            f"`{event.pinned.text}` is {event.pinned_dtype}, and meets `{event.policy.text}`, which is "
            f"{event.policy_dtype} in this `call`",
            f'TensorFlow converts neither, and raises: "has type {event.pinned_dtype} that does not match '
            f'type {event.policy_dtype}"',
            event.because,
        ),
        grounded=True,
    )


def _raw_loss(event: RawLoss) -> Broken:
    called = () if event.called is None else (Related(event.called, CALLED),)
    return Broken(
        Problem(
            RAW,
            event.at,
            "the loss is computed by hand from an output that is float16, and not cast",
            "with float32 labels TensorFlow refuses to mix the two; with labels of numpy the loss is "
            "computed in float16, where the square of 256 is inf",
            (
                *called,
                *event.because,
                Related(event.differentiated, "the loss is differentiated here"),
            ),
        )
    )


def _beyond(event: InputBeyondHalf) -> Broken:
    value = f"{event.value:,.0f}".replace(",", " ")
    message = {
        "given": f"values of up to {value} reach `{event.layer}`, which casts them to float16",
        "scaled": f"`{event.layer}` is made for values of up to {value}, and casts them to float16 first",
        "spread": f"`{event.layer}` computes in float16, and the variance of its values is {value}",
        "centred": f"`{event.layer}` computes in float16, and the mean of its values is {value}",
    }[event.how]
    consequence = {
        "given": "float16 ends at 65504: what lies beyond becomes inf before the first weight, and the "
        "loss nan; below, 4097 becomes 4096",
        "scaled": "float16 ends at 65504: what lies beyond becomes inf before it is scaled",
        "spread": "float16 ends at 65504: the variance becomes inf, and every value that is divided by its "
        "root becomes 0",
        "centred": "float16 ends at 65504: the mean becomes inf, and what it is taken from nan",
    }[event.how]
    return Broken(Problem(RANGE, event.at, message, consequence, event.because), grounded=True)


def _half_loss_made(event: HalfLossMade) -> Broken:
    return Broken(
        Problem(
            HALF_LOSS,
            event.at,
            f"`{event.loss}` is told to compute in float16",
            "Keras casts outputs and labels to float32 for a loss, and here to float16: the square of an "
            "error of 256 is inf, a probability below 6e-8 is zero",
        ),
        grounded=True,
    )


def _half_loss_given(event: HalfLossGiven) -> Broken:
    consequence = {
        "labels": "float16 has 11 bits and ends at 65504: a label of 4097 becomes 4096, one of 70000 inf",
        "prediction": "float16 has 11 bits and ends at 65504: what the output knew beyond that is lost "
        "before the loss is computed",
    }[event.part]
    return Broken(
        Problem(
            HALF_LOSS,
            event.at,
            f"the {event.part} of `{event.loss}` {'are' if event.part == 'labels' else 'is'} cast to float16",
            consequence,
            (Related(event.computed, "the loss is computed here"),),
        ),
        grounded=True,
    )

"""Constants that float16 cannot hold: beyond 65504 it has inf, below 3e-8 it has 0."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import ConstantMet, Event
from mpaudit.finding import Problem
from mpaudit.protocols.protocol import Broken, Protocol, Verdict

LARGEST = 65504.0
"""The largest number of float16."""
VANISHING = 2.0**-25
"""Numbers up to here are rounded to zero in float16."""
FILLS = (
    "masked_fill",
    "masked_fill_",
    "fill_",
    "index_fill",
    "index_fill_",
    "full",
    "full_like",
    "new_full",
    "pad",
    "constant_",
)
"""Operations that convert the constant first, and refuse one that does not fit."""
SILENT = ("where", "Add", "Sub", "Mult")
"""Operations that turn a constant that does not fit into inf."""
GUARDS = {
    "Add": "is added to",
    "Sub": "is taken from",
    "clamp": "bounds",
    "clamp_": "bounds",
    "clip": "bounds",
    "clamp_min": "bounds",
    "clamp_min_": "bounds",
    "normalize": "guards the norm of",
    "cosine_similarity": "guards the norm of",
}
"""Operations that a tiny constant keeps away from zero, and what it does there."""
TENSORFLOW = {
    "Add": "meets",
    "Sub": "meets",
    "Mult": "is a factor of",
    "Div": "divides",
    "where": "is put into",
}
"""What TensorFlow makes inf before it computes, and what that does to a tensor."""
TENSORFLOW_GUARDS = {
    **{name: GUARDS[name] for name in ("Add", "Sub", "clip")},
    "maximum": "bounds",
    "l2_normalize": "guards the norm of",
    "batch_normalization": "guards the variance",
}
ONE = 1 - 2.0**-12
"""Numbers from here to 1 are rounded to 1 in float16."""
REFUSED = 'it raises "value cannot be converted to type c10::Half without overflow"'


class HalfConstantsProtocol(Protocol):
    """MP302 and MP303; every constant is judged by itself."""

    __slots__ = ()

    takes = (ConstantMet,)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one constant."""
        if not isinstance(event, ConstantMet) or event.dtype != "float16":
            return
        if event.library == "tensorflow":
            yield from _in_tensorflow(event)
            return
        if abs(event.value) > LARGEST and event.operation in (*FILLS, *SILENT):
            yield _overflow(event)
        if 0 < abs(event.value) <= VANISHING and event.operation in GUARDS:
            yield _underflow(event)


def _overflow(event: ConstantMet) -> Broken:
    sign = "-" if event.value < 0 else ""
    tensor = f"`{event.tensor.text}`" if event.tensor.text else "a tensor"
    if event.operation in FILLS:
        message = f"`{event.operation}` puts {event.text} into {tensor}, which is float16"
        consequence = REFUSED
    elif event.operation in ("Add", "Sub", "Mult"):
        message = f"{event.text} meets {tensor}, which is float16"
        consequence = (
            f"float16 ends at 65504: the result is {sign}inf, and a row of a softmax that is "
            f"{sign}inf throughout becomes nan"
        )
    else:
        message = f"`{event.operation}` puts {event.text} into {tensor}, which is float16"
        consequence = (
            f"float16 ends at 65504: the value becomes {sign}inf, and a row of a softmax that is "
            f"{sign}inf throughout becomes nan"
        )
    return Broken(
        Problem(
            "half-overflow-constant",
            event.at,
            message,
            consequence,
            event.because,
            (("tensor", event.tensor.text),),
        ),
        grounded=True,
    )


def _in_tensorflow(event: ConstantMet) -> Iterator[Broken]:
    size = abs(event.value)
    if size > LARGEST and event.operation in TENSORFLOW:
        yield _made_inf(event)
    elif 0 < size <= VANISHING and event.operation in TENSORFLOW_GUARDS:
        yield _underflow(event)
    elif event.operation == "ceiling" and ONE <= size < 1:
        yield _no_ceiling(event)


def _made_inf(event: ConstantMet) -> Broken:
    sign = "-" if event.value < 0 else ""
    tensor = f"`{event.tensor.text}`" if event.tensor.text else "a tensor"
    consequence = {
        "Mult": f"TensorFlow makes the constant {sign}inf, and 0 times that is nan: what a mask lets through "
        f"is lost, and what is not 0 becomes {sign}inf; nothing raises",
        "Div": "TensorFlow makes the constant inf: every quotient is 0",
    }.get(
        event.operation,
        f"TensorFlow makes the constant {sign}inf, and a row of the softmax that is {sign}inf throughout "
        "becomes nan",
    )
    return Broken(
        Problem(
            "half-overflow-constant",
            event.at,
            f"{event.text} {TENSORFLOW[event.operation]} {tensor}, which is float16 and ends at 65504",
            consequence,
            event.because,
            (("tensor", event.tensor.text), ("constant", event.text), ("library", event.library)),
        ),
        grounded=True,
    )


def _no_ceiling(event: ConstantMet) -> Broken:
    tensor = f"`{event.tensor.text}`" if event.tensor.text else "a tensor"
    return Broken(
        Problem(
            "half-underflow-epsilon",
            event.at,
            f"{event.text} bounds {tensor} from above, which is float16: there it is 1",
            "below 1, float16 has no number beyond 0.9995: what is 1 stays 1, and log(1 - x) is -inf",
            event.because,
            (("tensor", event.tensor.text), ("constant", event.text), ("library", event.library)),
        ),
        grounded=True,
    )


def _underflow(event: ConstantMet) -> Broken:
    tensor = f"`{event.tensor.text}`" if event.tensor.text else "a tensor"
    does = {**GUARDS, **TENSORFLOW_GUARDS}[event.operation]
    return Broken(
        Problem(
            "half-underflow-epsilon",
            event.at,
            f"{event.text} {does} {tensor}, which is float16: there it is 0",
            "float16 has no number between 0 and 6e-8: a division is not guarded from 0/0 = nan, a "
            "logarithm not from log(0) = -inf",
            event.because,
            (("tensor", event.tensor.text), ("constant", event.text), ("library", event.library)),
        ),
        grounded=True,
    )

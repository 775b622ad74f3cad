"""A run that asked for mixed precision, and in which nothing was computed in it (MP905)."""

from __future__ import annotations

from mpaudit.finding import Moment, Problem, Span


def problem(layers: int, at: Span, how: str) -> Problem:
    """The finding of a run of so many layers; `how` it was asked for begins a sentence."""
    told = f"all {layers} layers" if layers > 1 else "the only layer"
    return Problem(
        rule="no-mixed-precision",
        span=at,
        message=f"{how} asks for mixed precision, but {told} ran in float32",
        consequence="nothing was computed in low precision: no time and no memory is saved",
        moment=Moment(step=0),
    )

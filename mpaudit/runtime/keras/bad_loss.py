"""Losses that are not finite although no layer's output is: they were made so after the layers."""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import Struct

from mpaudit.finding import Moment, Problem, Span
from mpaudit.runtime.keras.origin import Bad, Interval
from mpaudit.runtime.record import LOW_PRECISION, Incident
from mpaudit.runtime.tracer import Tracer

RULE = "activation-overflow"


class Lost(Struct, frozen=True):
    """A loss of one attempt, as gradients were taken of it: before a loss scale if `scaled`."""

    tick: int
    value: float
    dtype: str
    at: Span
    scaled: bool


def judge_losses(tracer: Tracer, losses: Iterable[Lost], seen: Interval) -> None:
    """Tell of those at whose ticks every layer's output was finite; their attempts were looked at."""
    for loss in losses:
        if math.isfinite(loss.value) or _explained(loss.tick, seen.forward.values()):
            continue
        step, what = seen.step(loss.tick), "nan" if math.isnan(loss.value) else "inf"
        overflows = what == "inf" and loss.dtype in LOW_PRECISION
        message = f"the loss is {what} in {loss.dtype}{', before it is scaled' * loss.scaled}"
        message += ", and no layer's output is"
        tracer.incident(
            Incident(
                rule=RULE,
                kind="activation-overflow" if overflows else "activation-nan",
                layer="",
                first_step=step,
                last_step=step,
                call=0,
                nonfinite=(what,),
                judgement="defect",
                message=message,
                filename=loss.at.filename,
                row=loss.at.start.row,
            )
        )
        applied = seen.applied(loss.tick)
        outcome = (
            "its gradients were applied: they may be finite, but the loss says nothing"
            if applied
            else "the step is lost"
        )
        tracer.problem(
            Problem(
                rule=RULE,
                span=loss.at,
                message=f"{message}, first at step {step}",
                consequence=outcome,
                moment=Moment(step=step),
            )
        )


def _explained(tick: int, outputs: Iterable[Bad]) -> bool:
    return any(each.was(tick) is not False for each in outputs)

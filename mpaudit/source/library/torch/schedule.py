"""torch.optim.lr_scheduler."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mpaudit.event import Ref, SchedulerStep
from mpaudit.source.engine.registry import function, method
from mpaudit.source.engine.values import NONE, NOWHERE, Const, Pack, Thing, Value
from mpaudit.source.text.module import bare

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

_ASKS = re.compile(
    r"get_scale\(|found_inf|skipp?ed|_step_count|was_run|overflow|is_finite|isfinite"
)
"""What code says that wants to know whether the step was made."""
SCHEDULERS = (
    "LambdaLR",
    "MultiplicativeLR",
    "StepLR",
    "MultiStepLR",
    "ConstantLR",
    "LinearLR",
    "ExponentialLR",
    "PolynomialLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "OneCycleLR",
    "SequentialLR",
)


@function(
    *(
        f"transformers.{module}get_{name}_schedule_with_warmup"
        for module in ("", "optimization.")
        for name in ("constant", "linear", "cosine", "polynomial_decay")
    )
)
@function(*(f"torch.optim.lr_scheduler.{name}" for name in SCHEDULERS))
def make_scheduler(call: Call) -> Value:
    """`StepLR(optimizer, step_size=30)`."""
    made = call.made("Scheduler")
    call.engine.derive(made, (*call.arguments, *call.keywords.values()), call.path)
    return call.path.learn(made, scaled=Pack(()), optimizer=call.argument(0, "optimizer"))


@method("Scheduler", "step")
def step(call: Call) -> Value:
    """`scheduler.step()`."""
    optimizer = call.path.known(call.thing, "@optimizer")
    if isinstance(optimizer, Thing) and not call.arguments and not call.keywords:
        call.emit(
            SchedulerStep(
                at=call.span,
                occasional=call.occasional,
                scheduler=call.ref(call.thing),
                optimizer=Ref(optimizer.uid, optimizer.text),
                beside=_beside(call, optimizer),
            )
        )
    return NONE


def _beside(call: Call, optimizer: Thing) -> bool:
    """Whether a scaler has perhaps skipped the step in this pass, and nobody asks."""
    stepped = call.path.known(optimizer, "@scaler_stepped")
    here = call.path.frame.iteration
    known = here != NOWHERE and stepped == Const(here)
    return known and not _ASKS.search(bare(call.path.frame.module.text))

"""torch.optim.lr_scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import Ref, SchedulerStep
from mpaudit.source.library.registry import function, method
from mpaudit.source.values import NONE, Pack, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.request import Call

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
            )
        )
    return NONE

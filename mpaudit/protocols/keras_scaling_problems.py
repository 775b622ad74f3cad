"""What is said of loss scaling in Keras that is out of balance."""

from __future__ import annotations

from mpaudit.event import (
    GradientsApplied,
    LegacyScaling,
    OptimizerWrapped,
    TapeGradient,
    TapeGradientsClipped,
    TapeGradientsUnscaled,
)
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.tape import Handled

SCALED = "the gradients are taken here, of a scaled loss"
APPLIED = "the gradients are applied here"
BUILT = "the optimizer is built here"


def missing_gradient_unscale(event: GradientsApplied, taken: TapeGradient) -> Problem:
    """MP505."""
    optimizer = event.optimizer.text
    if event.scales is False:
        said = (
            f"`{optimizer}` does no loss scaling, and applies gradients of a loss that was scaled"
        )
    else:
        said = (
            f"`{optimizer}` applies gradients that were never unscaled, of a loss that was scaled"
        )
    return Problem(
        "missing-gradient-unscale",
        event.at,
        said,
        "every update is 32768 times too large at the initial scale; Adam hides much of it",
        (Related(taken.at, SCALED),),
        (("optimizer", optimizer), ("keras", str(event.keras if event.scales else None))),
    )


def clip_scaled_gradients(
    step: TapeGradientsClipped, event: GradientsApplied | TapeGradientsUnscaled, known: Handled
) -> Problem:
    """MP506."""
    related, keras = [Related(known.taken.at, SCALED)], 2 if known.unscaled else 3
    if isinstance(event, GradientsApplied):
        related.append(Related(event.at, APPLIED))
        if event.made is not None:
            related.append(Related(event.made, BUILT))
    else:
        related.append(Related(event.at, "they are unscaled here"))
        keras = 2
    return Problem(
        "clip-scaled-gradients",
        step.at,
        f"`{step.how}` clips gradients that are still multiplied by the loss scale",
        "they are divided by the scale, 32768 to begin with, after they were clipped: next to nothing is "
        "left of every update",
        tuple(related),
        (("optimizer", event.optimizer.text), ("keras", str(keras))),
    )


def unbalanced_loss_scaling(event: GradientsApplied, known: Handled, divides: int) -> Problem:
    """MP518: scaled more often than unscaled, or the other way round."""
    times = len(known.taken.scaled_by or ())
    more, wrong = ("scaled", "large") if times > divides else ("unscaled", "small")
    return Problem(
        "double-loss-scaling",
        event.at,
        f"the loss is scaled {_times(times)}, and its gradients are unscaled {_times(divides)}",
        f"every update is 32768 times too {wrong} at the initial scale: it is {more} once too often",
        (Related(known.taken.at, SCALED),),
        (("optimizer", event.optimizer.text),),
    )


def nested_loss_scaling(event: OptimizerWrapped) -> Problem:
    """MP518: a LossScaleOptimizer around another one."""
    inner = event.inner.text if event.inner is not None else "the optimizer"
    return Problem(
        "double-loss-scaling",
        event.at,
        f"`{inner}` is a LossScaleOptimizer already, and is wrapped in another one",
        "Keras 3 divides every gradient by both scales, of which the loss is multiplied by one: every update "
        "is 32768 times too small; Keras 2 refuses it",
        (),
        (("inner", inner),),
    )


def applied_by_another_scale(event: GradientsApplied, before: object) -> Problem:
    """MP518: one optimizer applies two sets of gradients that were scaled before the first."""
    optimizer = event.optimizer.text
    related: tuple[Related, ...] = ()
    if isinstance(before, Span):
        related = (Related(before, f"`{optimizer}` applies the others here"),)
    return Problem(
        "double-loss-scaling",
        event.at,
        f"`{optimizer}` applies gradients that were scaled before it has applied others",
        "if those overflowed, it has halved its scale: these are divided by the new one, and are twice too "
        "large",
        related,
        (("optimizer", optimizer),),
    )


def legacy_loss_scale_api(event: LegacyScaling) -> Problem:
    """MP508."""
    what, optimizer = event.what, event.optimizer.text
    if what in ("get_scaled_loss", "get_unscaled_gradients", "minimize"):
        said = f"`{optimizer}.{what}` is of Keras 2: the optimizers of Keras 3 have no such method"
        harm = f"AttributeError: 'LossScaleOptimizer' object has no attribute '{what}'"
    elif event.raises:
        said = f"the LossScaleOptimizer of Keras 3 does not take `{what}`"
        harm = "ValueError when it is built"
    else:
        said = "the second argument of LossScaleOptimizer is the initial scale in Keras 3"
        harm = (
            "True is a scale of 1, False one of 0, with which the weights become NaN, and a text fails at "
            "the first step"
        )
    return Problem("legacy-loss-scale-api", event.at, said, harm, (), (("optimizer", optimizer),))


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")

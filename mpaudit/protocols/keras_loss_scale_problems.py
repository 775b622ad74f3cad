"""What is said of loss scaling in Keras that is missing, or in vain."""

from __future__ import annotations

from msgspec import Struct

from mpaudit.event import (
    GradientsApplied,
    OptimizerWrapped,
    PolicySet,
    TapeGradient,
    TapeGradientsUnscaled,
)
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.keras_model import Layer

UNWRAPPED = "the optimizer is built here, without loss scaling"
TAKEN = "the gradients are taken here, of a loss that is not scaled"
LOST = (
    "gradients below 6e-8 become zero in float16, and one overflow is applied to the weights instead of "
    "being skipped"
)


class Found(Struct, frozen=True):
    """Gradients that are applied, how they were taken, and what repairs need to know."""

    event: GradientsApplied
    tape: TapeGradient
    subjects: tuple[tuple[str, str], ...]

    @property
    def optimizer(self) -> str:
        """How the user spells the optimizer."""
        return self.event.optimizer.text

    @property
    def related(self) -> tuple[Related, ...]:
        """Where the optimizer is built that does not scale, and where the gradients are taken."""
        made, taken = self.event.made, Related(self.tape.at, TAKEN)
        return (Related(made, UNWRAPPED), taken) if made and not self.event.scales else (taken,)

    def problem(self, rule: str, message: str, consequence: str, *more: Related) -> Problem:
        """A problem where the gradients are applied."""
        related = (*self.related, *more)
        return Problem(rule, self.event.at, message, consequence, related, self.subjects)


def loop_without_loss_scaling(found: Found) -> Problem:
    """MP503."""
    rule = "keras-loop-without-loss-scaling"
    if found.event.scales:
        return found.problem(
            rule,
            f"the loop applies float16 gradients unscaled: `{found.optimizer}` is a LossScaleOptimizer, but "
            "Keras 2 leaves the scaling to the loop",
            f"{LOST}; `get_scaled_loss` and `get_unscaled_gradients` are never called",
        )
    return found.problem(
        rule,
        f"the loop applies float16 gradients with a plain optimizer: `{found.optimizer}` is no "
        "LossScaleOptimizer",
        f"{LOST}; only `compile` and `fit` add loss scaling by themselves",
    )


def unwrapped_second_optimizer(found: Found, other: OptimizerWrapped) -> Problem:
    """MP517."""
    who = "another optimizer" if other.by_hand else "only the optimizer that `compile` is given"
    return found.problem(
        "unwrapped-second-optimizer",
        f"`{found.optimizer}` applies float16 gradients without loss scaling, while {who} scales",
        LOST,
        Related(other.at, "the other optimizer is wrapped here"),
    )


def missing_scale_loss(found: Found, unscaled: tuple[TapeGradientsUnscaled, ...]) -> Problem:
    """MP504."""
    event = found.event
    scale = "32768 times too small at the initial scale"
    if event.factor is not None:
        scale = f"{event.factor:g} times too small"
    harm = f"every update is {scale}: SGD stands still, Adam hides it"
    who = f"`{found.optimizer}` divides the gradients by the loss scale"
    if unscaled:
        who = f"`{unscaled[0].optimizer.text}.get_unscaled_gradients` divides the gradients by the loss scale"
    elif event.keras is None:
        harm = f"with Keras 3 {harm}; with Keras 2 nothing is scaled, and small gradients are lost in float16"
    return found.problem(
        "missing-scale-loss", f"{who}, but the loss was never multiplied by it", harm
    )


def per_layer_policy_unscaled(found: Found, layer: Layer) -> Problem:
    """MP512."""
    return found.problem(
        "per-layer-policy-unscaled",
        "layers compute in float16 by a policy of their own, and nothing scales the loss",
        f"{LOST}; `compile` goes by the policy of the model, which is {layer.under}",
        Related(layer.at, f"this layer is mixed_float16, under the global policy {layer.under}"),
    )


def needless_loss_scale(found: Found, made: Span, policy: PolicySet | None) -> Problem:
    """MP519."""
    related = [Related(found.event.at, "gradients are applied here")]
    if policy is None:
        under = "loss scaling, but no policy is ever set"
    else:
        under = f"loss scaling under the policy `{policy.policy}`"
        related.insert(0, Related(policy.at, "the policy is set here"))
    return Problem(
        "needless-loss-scale",
        made,
        f"{under}: no layer of the model computes in float16",
        "each step multiplies the loss and divides every gradient for nothing, and checks all of them for "
        "infinities",
        tuple(related),
        (*found.subjects, ("policy", "" if policy is None else str(policy.policy))),
    )

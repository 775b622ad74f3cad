"""What is said of Keras dtype policies that are set too late, half-way, never, or to something else."""

from __future__ import annotations

from collections.abc import Sequence

from mpaudit.event import (
    Event,
    GradientsApplied,
    LossComputed,
    ModelMade,
    PolicyMade,
    PolicyRefused,
    PolicySet,
    PredictionsUsed,
    TapeGradient,
)
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.keras_model import Layer
from mpaudit.protocols.protocol import Broken

BUILT = "the model is built here, before that policy is set"
BETWEEN = "policy-between-layers"
INEFFECTIVE = "ineffective-policy"
PURE = "pure-half-policy"
TRAINED = "the model is trained here"
UNSCALED = (
    "`compile` goes by the policy of the moment the model was made, {}: it adds no loss scaling, and "
    "float16 gradients below 6e-8 become zero"
)
NO_SCALING = (
    "the variables are float16 themselves: an update below 0.024 % of a weight is rounded away; and "
    "`compile` adds no loss scaling, so that gradients below 6e-8 become zero"
)


def policy_after_model(policy: PolicySet, begun: tuple[Span, str | None], event: Event) -> Broken:
    """MP501."""
    at, before = begun
    trained = isinstance(event, TapeGradient)
    return Broken(
        Problem(
            "policy-after-model",
            policy.at,
            f"the policy `{policy.policy}` is set after the layers were built: they stay {before}",
            "nothing is mixed: every layer of the model computes in float32, `compile` adds no loss "
            "scaling, and nothing warns",
            (
                Related(at, BUILT),
                Related(event.at, f"the model is {'trained' if trained else 'used'} here"),
            ),
            (("policy", policy.policy or ""),),
        )
    )


def policy_between_layers(
    policy: PolicySet, early: Sequence[Layer], number: int, event: TapeGradient
) -> Broken:
    """MP509: the first layers were built before the policy was set, the others after."""
    what = "one layer" if len(early) == 1 else f"{len(early)} layers"
    stay = "stays" if len(early) == 1 else "stay"
    return Broken(
        Problem(
            BETWEEN,
            policy.at,
            f"the policy `{policy.policy}` is set half-way through a model: {what} of {number} built "
            f"before {stay} {early[0].under}",
            "they compute in float32 and gain nothing, what passes from them to the others is cast, and "
            "nothing warns",
            (Related(early[0].at, BUILT), Related(event.at, TRAINED)),
        )
    )


def policy_reset_before_model(
    policy: PolicySet, made: ModelMade, event: GradientsApplied
) -> Broken:
    """MP509: the policy was taken back when the layers were there, but not the model."""
    return Broken(
        Problem(
            BETWEEN,
            policy.at,
            f"the policy becomes `{policy.policy}` between a model's mixed_float16 layers and the model",
            UNSCALED.format(made.policy),
            (Related(made.at, "the model is made here"), Related(event.at, TRAINED)),
        )
    )


def policy_after_empty_model(policy: PolicySet, made: ModelMade, event: GradientsApplied) -> Broken:
    """MP509: the model was made, without a layer as yet, before the policy was set."""
    return Broken(
        Problem(
            BETWEEN,
            policy.at,
            f"the policy `{policy.policy}` is set after the model was made, and before its layers",
            UNSCALED.format(made.policy),
            (Related(made.at, "the model is made here"), Related(event.at, TRAINED)),
        )
    )


def ineffective_policy(made: PolicyMade, event: TapeGradient, *, late: bool) -> Broken:
    """MP510: a policy that was made and not set."""
    return Broken(
        Problem(
            INEFFECTIVE,
            made.at,
            f"a policy `{made.policy}` is made here, and never set",
            "to make a policy is not to set it: every layer computes in float32, and nothing warns",
            (Related(event.at, TRAINED),),
            (("late", "yes"),) if late else (),
        )
    )


def policy_refused(event: PolicyRefused) -> Broken:
    """MP510: a name that is none."""
    return Broken(
        Problem(
            INEFFECTIVE,
            event.at,
            f"'{event.given}' is the name of no policy",
            "it raises \"Cannot convert '...' to a mixed precision DTypePolicy\"; the names are "
            "mixed_float16, mixed_bfloat16 and those of dtypes",
            (),
            (("name", event.given),),
        ),
        grounded=True,
    )


def pure_half_policy(policy: PolicySet, layer: Layer, event: TapeGradient) -> Broken:
    """MP511: by the global policy, or by floatx."""
    how = "`set_floatx` makes float16 the policy" if policy.floatx else "the policy is `float16`"
    return Broken(
        Problem(
            PURE,
            policy.at,
            f"{how}, and a model is trained with it: `mixed_float16` is meant",
            NO_SCALING,
            (Related(layer.at, "a layer is built with it here"), Related(event.at, TRAINED)),
            (("floatx", "yes"),) if policy.floatx else (),
        )
    )


def pure_half_layer(layer: Layer, event: TapeGradient) -> Broken:
    """MP511: by the layer's own dtype."""
    return Broken(
        Problem(
            PURE,
            layer.at,
            f"the dtype of this `{layer.kind}` is float16, and so are the weights that are trained",
            NO_SCALING,
            (Related(event.at, TRAINED),),
            (("layer", layer.kind),),
        )
    )


def output_not_float32(
    layer: Layer, loss: LossComputed, policy: object, late: PolicySet | None
) -> Broken:
    """MP502."""
    activation = layer.activation or "linear"
    if loss.got in ("softmax", "sigmoid"):
        activation = loss.got
    consequence = {
        "softmax": "a probability below 6e-8 becomes zero: the loss of a confident wrong answer is cut off "
        "at 16.118, and its gradient is 0",
        "sigmoid": "the output is exactly 1 from a logit of 8 on: the loss of a confident wrong answer is "
        "cut off near 16, and its gradient is 0",
    }.get(activation, "the values the loss starts from have 3 digits, and overflow beyond 65504")
    how = "differentiated" if loss.by_hand else "computed from it"
    related = [Related(loss.at, f"the loss is {how} here")]
    if isinstance(policy, PolicySet):
        related.insert(0, Related(policy.at, "the policy is set here"))
    when = ", as soon as the policy takes effect" if late is not None else ""
    return Broken(
        Problem(
            "output-not-float32",
            layer.at,
            f"the model's output layer computes in float16, and its {activation} output leaves in it{when}"
            if activation != "linear"
            else f"the model's output layer computes, and its output leaves, in float16{when}",
            consequence,
            tuple(related),
            (("output", str(layer.at)),),
        )
    )


PREDICTED = "they become an array of it here"
_USED = {
    "float16": {
        "summed": "float16 ends at 65504 and counts to 2048: 4096 predictions of 100 add up to inf",
        "scored": "the square of an error of 256 is inf in float16, and probabilities are cut off at the "
        "epsilon of their dtype, 0.001: a log loss of 7.97 comes out as 3.46",
        "measured": "Keras 3 computes the metric in the dtype of the predictions: the square of an error of "
        "256 is inf",
    },
    "bfloat16": {
        "summed": "bfloat16 counts to 256: the mean of 4096 ones comes out as 0.0625",
        "saved": "numpy saves bfloat16 as raw bytes: the file loads as dtype `|V2`, which holds no numbers",
        "scored": "scikit-learn refuses bfloat16",
        "framed": "pandas has no bfloat16: the mean of 0.3008 comes out as 0.2988, `describe` raises",
    },
}


def half_predictions(event: PredictionsUsed) -> Broken:
    """MP516."""
    made = () if event.predicted is None else (Related(event.predicted, PREDICTED),)
    return Broken(
        Problem(
            "half-predictions",
            event.at,
            f"predictions are {event.how} by `{event.what}` in {event.dtype}, as they left the model",
            _USED[event.dtype][event.how],
            made,
        )
    )

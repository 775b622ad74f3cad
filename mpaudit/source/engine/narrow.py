"""How much is followed where the budget is short, and what can be judged by it."""

from __future__ import annotations

from mpaudit.protocols.protocol import Verdict

HANDLING = frozenset(
    [
        "autocast",
        "GradScaler",
        "NativeScaler",
        "backward",
        "unscale_",
        "step()",
        "step(...)",
        "scale(...)",
        "update()",
        "zero_grad",
        "clip_grad_norm_",
        "register_hook",
        "grad",
        "clip_grad_value_",
        "remove()",
        "state_dict()",
        "torch.save",
    ]
)
"""What a function must mention that is followed even where the budget is short."""

REGIONS = HANDLING - {"state_dict()", "torch.save"}
"""What is left of it where that is too much: regions, and what makes gradients, changes and applies them."""
STEPPING = REGIONS - {"autocast"}
"""What is left where even that is too much: gradients alone."""
TRAINING = frozenset(["backward"])
"""What the loop over batches mentions."""
NARROWNESS = (None, HANDLING, REGIONS, STEPPING)
"""What is followed where the budget is short, from everything down."""
SMALL = {HANDLING: 8}
"""How large a block must be, in statements, to be passed over: more is known of what is executed."""
ORDER = frozenset(
    [
        "clip-before-unscale",
        "closure-with-scaler",
        "double-unscale",
        "guard-skips-update",
        "inconsistent-loss-scaling",
        "mid-accumulation-step",
        "mismatched-optimizer",
        "missing-scaler-update",
        "repeated-scaler-update",
        "scaler-in-loop",
        "scaler-not-checkpointed",
        "step-without-gradients",
        "unscaled-backward",
        "unscaled-step",
        "update-before-step",
    ]
)
"""The rules that rest on nothing but losses, gradients, scalers and optimizers; of checkpoints, it is whom a
scaler steps."""


REGIONAL = frozenset(
    [
        "autocast-around-loop",
        "backward-in-autocast",
        "missing-grad-scaler",
        "scaler-with-bfloat16",
        "scaler-without-autocast",
    ]
)
"""The rules that rest on regions besides."""
JUDGED = {REGIONS: ORDER | REGIONAL, STEPPING: ORDER}
WHOLE = frozenset(
    [
        "adam-epsilon-in-half",
        "clip-scaled-gradients",
        "double-loss-scaling",
        "half-parameters",
        "keras-loop-without-loss-scaling",
        "missing-gradient-unscale",
        "missing-scale-loss",
        "needless-loss-scale",
        "output-not-float32",
        "policy-after-model",
        "policy-between-layers",
        "scaler-with-half-parameters",
        "unwrapped-second-optimizer",
    ]
)
"""The rules for which everything must be followed: casts of a model may be taken back, and what Keras makes
under which policy, or what a loss and its gradients go through there, is done by any code."""


def judged(verdicts: list[Verdict], narrow: frozenset[str] | None) -> list[Verdict]:
    """The verdicts that count where no more was followed than that."""
    if narrow is None:
        return verdicts
    rules = JUDGED.get(narrow)
    return [v for v in verdicts if (v.rule not in WHOLE if rules is None else v.rule in rules)]

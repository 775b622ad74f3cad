"""How much is followed where the budget is short, and what can be judged by it."""

from __future__ import annotations

from mpaudit.protocols.protocol import Verdict

HANDLING = frozenset(
    [
        "autocast",
        "GradScaler",
        "backward",
        "unscale_",
        "step()",
        "step(...)",
        "scale(...)",
        "update()",
        "zero_grad",
        "clip_grad_norm_",
        "grad",
        "clip_grad_value_",
        "state_dict()",
        "torch.save",
    ]
)
"""What a function must mention that is followed even where the budget is short."""

CLOSING = frozenset(["step(...)", "update()"])
"""Or what closes an iteration for callers out of sight."""
STEPPING = HANDLING - {"autocast", "state_dict()", "torch.save"}
"""What is left of it where even that is too much: what makes gradients, changes and applies them."""
TRAINING = frozenset(["backward"])
"""What the loop over batches mentions."""
NARROWNESS = (None, HANDLING, STEPPING)
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
        "step-without-gradients",
        "unscaled-backward",
        "unscaled-step",
        "update-before-step",
    ]
)
"""The rules that rest on nothing but losses, gradients, scalers and optimizers."""


def of_order(verdicts: list[Verdict]) -> list[Verdict]:
    """The verdicts that count where only what makes and applies gradients was followed."""
    return [verdict for verdict in verdicts if verdict.rule in ORDER]

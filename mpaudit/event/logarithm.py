"""Logarithms of softmaxes and sigmoids, and from where on they are -inf."""

from __future__ import annotations

from mpaudit.event.core import Event
from mpaudit.finding import Span

SAFE_FORMS = {
    "softmax(x)": "log_softmax(x)",
    "sigmoid(x)": "logsigmoid(x)",
    "1 - sigmoid(x)": "logsigmoid(-x)",
}
CONSEQUENCES = {
    "softmax(x)": "the probability of a class whose logit is 18 below the greatest is 0 in float16, of one "
    "that is 104 below in float32: its logarithm is -inf, and every gradient NaN",
    "sigmoid(x)": "the sigmoid is 0 from a logit of -18 on in float16, and of -89 in float32: its "
    "logarithm is -inf, and the gradient NaN",
    "1 - sigmoid(x)": "the sigmoid is 1 from a logit of 9 on in float16, of 7 in bfloat16 and of 17 in "
    "float32: the logarithm of what is left is -inf, and the gradient NaN",
}


class LogTaken(Event, frozen=True, kw_only=True):
    """The logarithm of an activation was taken: `of` is "softmax(x)" or "sigmoid(x)".

    `shown` is where the activation stands.
    """

    of: str
    shown: Span | None


def said(of: str) -> str:
    """What is wrong with the logarithm of an activation, in a sentence."""
    return f"`log({of})` rounds to 0 on the way, `{SAFE_FORMS[of]}` does not"

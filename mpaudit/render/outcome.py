"""The advice of a run in lines, and what applying it has changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from mpaudit.render.columns import table as columns
from mpaudit.rule import Severity
from mpaudit.runtime.advice import Advice
from mpaudit.runtime.summary import RunReport

Outcome = Mapping[str, Any]
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r'File ".*", line \d+, in ')
_LONGEST = 400


def told(advice: Advice, *, errors: bool = False, scaled: bool = True) -> list[str]:
    """What to change, each with its reason below it, and what nothing can be done about here.

    `errors` says that there are findings which a training goes wrong by, `scaled` that there was a loss
    scale.
    """
    if advice.empty and not advice.beside:
        return [f"  none: {nothing(errors=errors, scaled=scaled)}"]
    lines = [f"  {each}" for each in changes(advice)]
    return [*lines, *(f"    {each}" for each in advice.reasons), *(f"  {e}" for e in advice.beside)]


def errors(report: RunReport) -> bool:
    """Whether something was found by which the training goes wrong."""
    return any(each.severity is Severity.ERROR for each in report.findings)


def nothing(*, errors: bool, scaled: bool) -> str:
    """Why there is no advice."""
    if errors:  # a loss that is never scaled, say: then its scale says nothing
        return "no layer overflows; mend what was found first"
    return "no layer overflows, and the loss scale fits" if scaled else "no layer overflows"


def gist(error: str) -> str:
    """The text of an exception in a line: what autograph and Keras write around it is left out."""
    kept: list[str] = []
    lines = iter(_COLOUR.sub("", error).splitlines())
    for line in map(str.strip, lines):
        if line.startswith("Arguments received by "):
            break
        if _FRAME.match(line):
            next(lines, None)  # of source
        elif line and not line.endswith("in user code:"):
            kept.append(line)
    text = " ".join(kept)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def changes(advice: Advice) -> list[str]:
    """What to change, in few words."""
    keras = advice.framework == "keras"
    lines = []
    if advice.float32:
        layers = ", ".join(repr(each) for each in advice.float32)
        how = 'with dtype="float32"' if keras else "within autocast(enabled=False)"
        lines.append(f"keep in float32, {how}: {layers}")
    names = (
        ("initial_scale", "dynamic_growth_steps") if keras else ("init_scale", "growth_interval")
    )
    given = zip(names, (advice.init_scale, advice.growth_interval), strict=True)
    arguments = ", ".join(f"{name}={value:.8g}" for name, value in given if value)
    if arguments:
        lines.append(f"{'LossScaleOptimizer' if keras else 'GradScaler'}({arguments})")
    if advice.dtype:
        policy, dtype = (
            f'mixed_precision.set_global_policy("mixed_{advice.dtype}")',
            f"torch.{advice.dtype}",
        )
        lines.append(policy if keras else f"autocast(dtype={dtype})")
    return lines


def rows(before: Outcome, after: Outcome) -> list[tuple[str, str, str]]:
    """What was measured, before and after; without what neither of the two runs measured.

    Where one run has more steps, losses are compared after as many of them.
    """
    shown: dict[str, Callable[[Outcome], str]] = {
        "steps skipped": lambda run: f"{run['skipped']} of {run['steps']}",
        "layers that overflow": lambda run: _count(run["overflowing"]),
        "gradients made zero": lambda run: _share(run["flushed"]),
        "gradients subnormal": lambda run: _share(run["subnormal"]),
        "time of a step": lambda run: _time(run["seconds_per_step"]),
        "losses inf or nan": lambda run: str(run["bad_losses"]),
        "loss at first": lambda run: _number(run["first_loss"]),
    }
    found = [(title, show(before), show(after)) for title, show in shown.items()]
    last = _number(before["last_loss"]), _number(after["last_loss"])
    if before["steps"] != after["steps"] and (then := after.get("loss_then")) is not None:
        found.append((f"loss after {before['steps']} steps", last[0], _number(then)))
        last = "-", last[1]
    return [row for row in (*found, ("loss at last", *last)) if row[1:] != ("-", "-")]


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.3g} ms"


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:.4g}"


def table(before: Outcome, after: Outcome) -> list[str]:
    """The rows with their titles, in lines."""
    return columns(("", "before", "after"), rows(before, after))

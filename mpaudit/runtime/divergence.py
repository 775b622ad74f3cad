"""Whether a run leaves its float32 reference by more than low precision costs in digits.

Three runs of one script are compared, step by step: as it is, in float32, and in float32 with
products and casts rounded to the digits of the low precision. The third is the yardstick. It makes
the small errors that every run in low precision makes, and they grow in it as they do there; it has
float32's range, and nothing else in low precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from msgspec import Struct

from mpaudit.finding import Moment, Problem, Span
from mpaudit.runtime.rehearsal import Record, Sketch

RULE = "diverges-from-float32"
FEWEST = 10  # values of a series that can be judged
LASTING = 5  # values at the end that have to be apart, at least
APART = 8.0  # times the yardstick
LOSS_APART, GRADIENT_APART, OUTPUT_APART = 0.2, 0.5, 0.2  # and so far in any case
SAME = 0.01  # what parameters and inputs may differ by at the start (they may be halves)
SAME_LOSS = 0.05  # what first losses in float32 may differ by, one of which is rounded
START = ("parameters", "random")
_SEED = {"torch": "torch.manual_seed", "keras": "keras.utils.set_random_seed"}
_UNLIKE = {
    "parameters": "every run starts from other parameters; a seed is missing ({seed})",
    "random": "torch draws other random numbers in every run; a seed is missing",
    "inputs": "the model gets other inputs in every run; a seed is missing (random, numpy, torch)",
}


class Comparison(Struct, frozen=True):
    """How it came out: the findings, or why the runs cannot be compared; `steps` were."""

    steps: int
    problems: tuple[Problem, ...] = ()
    refused: str | None = None

    def facts(self) -> dict[str, Any]:
        """What the trace keeps of it, in JSON values."""
        return {"steps": self.steps, "diverges": bool(self.problems), "refused": self.refused}


class _Series(Struct, frozen=True):
    """Distances from the reference, value by value, of the run and of the yardstick."""

    what: str
    at: Span
    steps: Sequence[int]
    ours: Sequence[float]
    yardstick: Sequence[float]
    said: Callable[[int], str]
    apart: float

    def leaves(self) -> int | None:
        """The index from which the run is apart from the reference to its end; None if it is not."""
        if len(self.ours) < FEWEST:
            return None
        limit, apart = 0.0, []
        for mine, usual in zip(self.ours, self.yardstick, strict=True):
            limit = max(limit, usual)
            apart.append(mine > max(self.apart, APART * limit))
        first = len(apart) - next(
            (n for n, each in enumerate(reversed(apart)) if not each), len(apart)
        )
        lasting = max(LASTING, len(apart) // 10)
        return first if len(apart) - first >= lasting else None


def unlike(one: Record, other: Record, *what: str) -> str | None:
    """Why two runs are not the same training; None if `what` they start from is the same.

    `what` are words of `Record.start`. Between the run and its reference these are "parameters" and
    "random"; inputs may well differ between them (stored as float16, say), and not between two runs
    in float32.
    """
    if not one.start or not other.start:
        return "no model was called"
    for each in what:
        mine, theirs = one.start[each], other.start[each]
        if each == "random":
            differ = mine != theirs
        else:
            pairs = zip(mine, theirs, strict=False)
            differ = len(mine) != len(theirs) or any(_distance(a, b) > SAME for a, b in pairs)
        if differ:
            return _UNLIKE[each].format(seed=_SEED.get(one.framework or "", "any"))
    return None


def compare(ours: Record, reference: Record, yardstick: Record) -> Comparison:
    """What the three records say."""
    why = unlike(ours, reference, *START) or unlike(reference, yardstick, *START, "inputs")
    if why is not None:
        return Comparison(0, refused=why)
    if _begin_apart(reference, yardstick):
        return Comparison(0, refused=_UNLIKE["inputs"])
    steps = min(len(each.steps) for each in (ours, reference, yardstick))
    if steps >= FEWEST and not ours.losses:
        return Comparison(steps, refused="the losses of its steps are not known")
    series = [*_losses(ours, reference, yardstick), *_gradients(ours, reference, yardstick)]
    if not any(len(each.ours) >= FEWEST for each in series):
        why = f"{steps} steps are too few, at least {FEWEST} are needed"
        return Comparison(steps, refused=why)
    for each in series:
        if (first := each.leaves()) is not None:
            return Comparison(steps, (_problem(each, first, ours, reference, yardstick),))
    return Comparison(steps)


def _problem(
    series: _Series, first: int, ours: Record, reference: Record, yardstick: Record
) -> Problem:
    origin = _origin(ours, reference, yardstick)
    step = series.steps[first]
    usual = max(series.yardstick)
    consequence = (
        f"{series.said(len(series.ours) - 1)}; rounding alone makes a difference of {_share(usual)}"
    )
    if origin is not None:
        layer, since = origin
        consequence += f"; the first layer to leave is {layer or 'the model'}, in step {since}"
    return Problem(
        rule=RULE,
        span=series.at,
        message=f"{series.what} leaves that of float32 from step {step} on and does not come back",
        consequence=consequence,
        moment=Moment(step=step, layer=origin[0] if origin is not None else None),
    )


def _losses(ours: Record, reference: Record, yardstick: Record) -> list[_Series]:
    """One series for each place where a backward pass begins."""
    found = []
    for place in dict.fromkeys(each.place for each in ours.losses):
        at = ours.span(place)
        mine, right, usual = (
            [(each.step, each.value) for each in record.losses if record.span(each.place) == at]
            for record in (ours, reference, yardstick)
        )
        count = 0
        for (a, _), (b, value), (c, noisy) in zip(mine, right, usual, strict=False):
            if not (a == b == c and math.isfinite(value) and math.isfinite(noisy)):
                break
            count += 1
        values = [value for _, value in right[:count]]
        levels = _levels(values)

        def distances(
            series: list[tuple[int, float]],
            values: list[float] = values,
            levels: list[float] = levels,
        ) -> list[float]:
            rows = zip(series, values, levels, strict=False)
            return [_apart(value, wanted, level) for (_, value), wanted, level in rows]

        def said(
            index: int,
            mine: list[tuple[int, float]] = mine,
            right: list[tuple[int, float]] = right,
        ) -> str:
            step, value = mine[index]
            return f"in step {step} it is {value:.4g}, in float32 {right[index][1]:.4g}"

        steps = [step for step, _ in mine[:count]]
        found.append(
            _Series("the loss", at, steps, distances(mine), distances(usual), said, LOSS_APART)
        )
    return found


def _begin_apart(one: Record, other: Record) -> bool:
    """Whether the first losses of two runs in float32 differ by more than rounding makes them.

    They tell of other inputs, which are not recorded of Keras.
    """
    if one.framework != "keras" or not (one.losses and other.losses):
        return False
    first, second = one.losses[0].value, other.losses[0].value
    return math.isfinite(first) and _apart(second, first, abs(first)) > SAME_LOSS


def _levels(values: Sequence[float]) -> list[float]:
    """What a difference in each value of a loss is measured by: the usual size around it.

    A loss that is as good as nil has no size of its own; a twentieth of the first ones stands in.
    """
    start = median(abs(each) for each in values[:5]) if values else 0.0
    near = (values[max(n - 2, 0) : n + 3] for n in range(len(values)))
    return [max(median(abs(each) for each in some), start / 20) for some in near]


def _gradients(ours: Record, reference: Record, yardstick: Record) -> list[_Series]:
    """One series for each optimizer: all its gradients as one."""
    found = []
    for optimizer in dict.fromkeys(each.optimizer for each in ours.steps):
        rows = zip(
            *(
                [each for each in record.steps if each.optimizer == optimizer]
                for record in (ours, reference, yardstick)
            ),
            strict=False,
        )
        steps, mine, usual = [], [], []
        at = None
        for a, b, c in rows:
            if not a.applied == b.applied == c.applied:
                break
            if not (a.applied and a.gradients):  # where they are not known there are none at all
                continue
            at = at or ours.span(a.place)
            right = _joined(b.gradients, b.gradients)
            steps.append(a.number)
            mine.append(_distance(_joined(a.gradients, b.gradients), right))
            usual.append(_distance(_joined(c.gradients, b.gradients), right))

        def said(index: int, mine: list[float] = mine, steps: list[int] = steps) -> str:
            return f"in step {steps[index]} they differ by {_share(mine[index])} of their norm"

        if at is not None:
            what = "the gradient"
            found.append(_Series(what, at, steps, mine, usual, said, GRADIENT_APART))
    return found


def _joined(sketches: Sequence[Sketch | None], like: Sequence[Sketch | None]) -> Sketch:
    """The sketches of all parameters in a row; a missing gradient is nil."""
    joined: Sketch = []
    for number, shape in enumerate(like):
        mine = sketches[number] if number < len(sketches) else None
        joined += mine or [0.0] * len(shape or ())
    return joined


def _origin(ours: Record, reference: Record, yardstick: Record) -> tuple[str, int] | None:
    """The first layer whose output is apart, in the order of the run, and its step."""
    limits: dict[str, float] = {}
    for mine, right, usual in zip(ours.outputs, reference.outputs, yardstick.outputs, strict=False):
        if not mine.layer == right.layer == usual.layer:
            return None
        limit = max(limits.get(mine.layer, 0.0), _distance(usual.sketch, right.sketch))
        limits[mine.layer] = limit
        if _distance(mine.sketch, right.sketch) > max(OUTPUT_APART, APART * limit):
            return mine.layer, mine.step
    return None


def _distance(one: Sketch, right: Sketch) -> float:
    """The distance of two sketches by the length of the second."""
    if len(one) != len(right):
        return math.inf
    if not all(math.isfinite(each) for each in one):
        return math.inf if all(math.isfinite(each) for each in right) else 0.0
    apart = math.dist(one, right)
    length = math.hypot(*right)
    return apart / length if length else math.inf if apart else 0.0


def _apart(value: float, wanted: float, level: float) -> float:
    if not math.isfinite(value):
        return math.inf
    apart = abs(value - wanted)
    return apart / level if level else math.inf if apart else 0.0


def _share(value: float) -> str:
    if not math.isfinite(value):
        return "more than all"
    return f"{100 * value:.0f} %" if value >= 0.995 else f"{100 * value:.2g} %"

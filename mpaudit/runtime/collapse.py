"""The loss scale in free fall: skips that go on although the scale is below one (MP902, MP904).

A scaler that starts too high skips its first steps until the scale fits; that is calibration. A step
that overflows at a scale below one does so without any scaling, and a lower scale will not help it;
nor does it help where the scale stays at one.
A fall is over once the scale has grown, or the skips have stopped for long enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from msgspec import Struct

from mpaudit.finding import Moment, Position, Problem, Related, Span
from mpaudit.runtime.record import Attempts, Incident, Layer

LEAST = 10  # skipped steps without which nothing is a fall
QUIET = 20  # applied steps after which it is over, if steps were skipped more often than that
_LAST = 32  # intervals between skips that are remembered


class Fall(Struct, frozen=True):
    """Skipped steps of one optimizer since its loss scale last grew: `first` to `last`.

    `skipped` counts them; `start` and `end` are the scales in force at the first and the last of
    them; `attempts` is the number of steps since the first.
    """

    optimizer: int
    first: int
    last: int
    skipped: int
    start: float
    end: float
    attempts: int

    @property
    def whole(self) -> bool:
        """Whether every step was skipped from the first on."""
        return self.skipped == self.attempts


def falls(runs: Iterable[Sequence[Attempts]], incidents: Sequence[Incident]) -> list[Fall]:
    """The falls at the end of the attempts of several optimizers, those aside that are explained."""
    found = [fell for attempts in runs if (fell := fall(attempts)) is not None]
    return [each for each in found if not explained(each, incidents)]


def fall(attempts: Sequence[Attempts]) -> Fall | None:
    """The fall that an optimizer's scale is in at the end, None if it is in none."""
    skips: list[Attempts] = []
    before: float | None = None
    for row in attempts:
        if row.scale is None or row.applied is None or (before is not None and row.scale > before):
            skips.clear()
        if row.applied is False and row.scale is not None:
            skips.append(row)
        before = row.scale
    if not skips:
        return None
    start, end = skips[0].scale, skips[-1].scale
    skipped = sum(each.last - each.first + 1 for each in skips)
    applied_since = attempts[-1].last - skips[-1].last
    if start is None or end is None or skipped < LEAST:
        return None
    stuck = end == 1 and skips[-1].first < skips[-1].last  # Keras 2 goes no lower
    if end >= 1 and not stuck:
        return None
    if applied_since > max(QUIET, 3 * median(_intervals(skips))):
        return None
    total = attempts[-1].last - skips[0].first + 1
    return Fall(attempts[-1].optimizer, skips[0].first, skips[-1].last, skipped, start, end, total)


def _intervals(skips: Sequence[Attempts]) -> list[int]:
    """Steps from one skip to the next, the last of them."""
    intervals = [1]
    previous: int | None = None
    for row in skips:
        if previous is not None:
            intervals.append(row.first - previous)
        intervals += [1] * min(row.last - row.first, _LAST)
        previous = row.last
    return intervals[-_LAST:]


def during(found: Fall, incidents: Iterable[Incident], *, whole: bool = False) -> list[Incident]:
    """What went wrong in the last skipped step of a fall, or (`whole`) in any step of it."""
    begin = found.first if whole else found.last
    return [each for each in incidents if each.first_step <= found.last and begin <= each.last_step]


def explained(found: Fall, incidents: Iterable[Incident]) -> bool:
    """Whether an overflow of the forward pass, which is a finding of its own, is behind a fall."""
    bad = during(found, incidents)
    return any(e.rule == "activation-overflow" and e.judgement == "defect" for e in bad)


def problems(
    found: Fall, made: Sequence[Incident], others: Sequence[Incident], layer: Layer | None, at: Span
) -> Iterator[Problem]:
    """What is to be said of a fall: the layer that made it, or the fall itself, never both.

    `made` are the incidents of its last step that began in a layer in float16, `others` the further
    ones; `layer` is where the first of `made` happened; `at` is where the optimizer is stepped.
    """
    if made and layer is not None:
        first = made[0]
        row = layer.row or 1
        yield Problem(
            rule="gradient-overflow",
            span=Span(layer.filename or "<unknown>", Position(row, 1), Position(row, 1)),
            message=f"{_plain(first)} at every loss scale: {_course(found)}",
            consequence=f"the step is skipped each time, down to a scale of {found.end:.3g}",
            moment=Moment(step=found.first, layer=first.layer, op=layer.type),
        )
        return
    seen = [each for each in others if each.filename is not None]
    yield Problem(
        rule="loss-scale-collapse",
        span=at,
        message=f"the loss scale falls and does not recover: {_course(found)}",
        consequence=(
            "a step that is skipped at a scale below 1 overflows without any scaling: "
            "a lower scale cannot help, and the model is not trained"
        ),
        related=tuple(
            Related(
                Span(each.filename or "", Position(each.row or 1, 1), Position(each.row or 1, 1)),
                _plain(each),
            )
            for each in seen
        ),
        moment=Moment(step=found.first),
    )


def _course(found: Fall) -> str:
    steps = f"{found.skipped} of {found.attempts} steps from step {found.first} on"
    if found.whole:
        steps = f"all {found.skipped} steps from step {found.first} on"
    return f"{steps} were skipped, the scale went from {found.start:.6g} to {found.end:.3g}"


def _plain(incident: Incident) -> str:
    return incident.message.removesuffix("; the step was skipped")

"""`--fail-on`: what a run must not show, so that CI fails where it does."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct

from mpaudit.config import fit, known
from mpaudit.errors import MpauditError
from mpaudit.finding import Finding
from mpaudit.rule import Severity, rule
from mpaudit.runtime.record import Incident
from mpaudit.runtime.summary import RunReport

OPTION = "--fail-on"
_MEASURE = re.compile(r"(?P<what>[a-z]+)=(?P<number>\d+(\.\d+)?)(?P<percent>%?)")
_GRAVEST_FIRST = [each.value for each in (Severity.ERROR, Severity.WARNING, Severity.ADVICE)]
_SHOWN = 5  # findings that are named

Broken = Iterator[str]


class Limit(Struct, frozen=True):
    """One word of `--fail-on`, and what says in words how a run breaks it: nothing where it does not.

    That raises MpauditError where the run cannot say.
    """

    word: str
    broken: Callable[[RunReport], Broken]


def limits(words: Sequence[str]) -> list[Limit]:
    """The limits that were asked for. Raises MpauditError for a word that is none.

    A severity stands for findings that are at least as grave; a selector, as of `--select`, for
    findings of those rules; `skipped=N` or `skipped=P%` for more skipped steps than that, of any
    optimizer; `headroom=BITS` for an output in float16 that comes nearer to 65504 than that.
    """
    return [_limit(each.strip()) for word in words for each in word.split(",")]


def told(report: RunReport, asked: Sequence[Limit], say: Callable[[str], None]) -> bool:
    """Whether a run breaks a limit; `say` is told how. Raises MpauditError where one cannot be judged."""
    if asked and not report.layers and not report.optimizers:
        raise MpauditError(f"{OPTION}: no training was seen in {report.path}, so nothing is judged")
    lines = [f"{OPTION} {limit.word}: {how}" for limit in asked for how in limit.broken(report)]
    for line in lines:
        say(line)
    return bool(lines)


def _limit(word: str) -> Limit:
    if word.lower() in _GRAVEST_FIRST:
        grave = _GRAVEST_FIRST[: _GRAVEST_FIRST.index(word.lower()) + 1]
        return Limit(word, lambda run: _found(e for e in run.findings if e.severity.value in grave))
    measure = _MEASURE.fullmatch(word)
    if measure is None and "=" not in word:
        known(word, OPTION)
        return Limit(word, lambda run: _found(e for e in run.findings if fit(word, rule(e.name))))
    number = float(measure["number"]) if measure else 0.0
    if measure and measure["what"] == "skipped":
        share = bool(measure["percent"])
        return Limit(word, lambda run: _skipped(run, number / 100 if share else number, share))
    if measure and measure["what"] == "headroom" and not measure["percent"]:
        return Limit(word, lambda run: _near(run, number))
    raise MpauditError(
        f"{OPTION}: {word!r} is no limit; write error, warning, advice, a rule, "
        "skipped=5, skipped=10% or headroom=2"
    )


def _found(findings: Iterable[Finding]) -> Broken:
    found = list(findings)
    if found:
        named = [f"{e.code} {e.name} in {e.span.filename}:{e.span.start.row}" for e in found]
        more = [f"{len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        yield "; ".join([*named[:_SHOWN], *more])


def _skipped(report: RunReport, most: float, share: bool) -> Broken:
    for steps in report.optimizers:
        if any(each.applied is None for each in steps.attempts):
            raise MpauditError(
                f"{OPTION} skipped: whether the steps of {steps.type} were applied was not seen"
            )
        lost = len(steps.skipped)
        if lost > (most * steps.total if share else most):
            yield f"{lost} of {steps.total} steps of {steps.type} were skipped"


def _near(report: RunReport, bits: float) -> Broken:
    if report.light:
        raise MpauditError(f"{OPTION} headroom: no layer is looked at with --light")
    half = {f.layer.path: f.forward for f in report.layers if "float16" in f.forward.dtypes}
    left = {path: outputs.headroom_bits for path, outputs in half.items()}
    near = {path: each for path, each in left.items() if each is not None and each < bits}
    beyond = [each.layer for each in report.incidents if _overflows(each) and each.layer in half]
    near.update(dict.fromkeys(beyond, -math.inf))  # what is left is finite, and may be small
    if near:
        nearest = min(near, key=near.__getitem__)
        where = f"layer {nearest!r}" if nearest else "the model's output"
        more = f", and {len(near) - 1} more" if len(near) > 1 else ""
        has = "overflows" if nearest in beyond else f"has {near[nearest]:.1f} bits left"
        yield f"{where} {has} in float16{more}"


def _overflows(incident: Incident) -> bool:
    return incident.kind == "activation-overflow" and incident.judgement == "defect"

"""`run --apply`: the advice of a run is put into effect in memory, and measured against that run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from mpaudit import verdict
from mpaudit.errors import MpauditError
from mpaudit.render import outcome as render
from mpaudit.runtime.advice import Advice, advise, outcome, without_effect
from mpaudit.runtime.process import world_size
from mpaudit.runtime.rehearsal import Plan
from mpaudit.runtime.rehearsing import follow
from mpaudit.runtime.summary import RunReport

ROUNDS = 6  # trials, at most: a layer in float32 may bring to light the next one
LEAST = 5  # steps that say something

Say = Callable[[str], None]


def applied(given: str, plan: Plan, script: str, say: Say) -> dict[str, Any] | None:
    """The fact `applied` of the run to come: its "advice", and the outcome "before"; None for none.

    `given` is a trace of the same script, or how many steps are run first, as often as something new
    comes to light. Raises MpauditError for anything else.
    """
    if given.isdigit():
        return _tried(int(given), plan, say)
    report = verdict.read(Path(given))
    made_of = report.meta.get("script")
    if Path(str(made_of)).resolve() != Path(script).resolve():
        raise MpauditError(
            f"--apply: {given} is a trace of {made_of}, not of {script}; where that starts the other, "
            "put mpaudit between them: `torchrun ... -m mpaudit run --apply TRACE train.py`"
        )
    earlier = report.meta.get("applied") or {}
    advice = _more(report, Advice.read(earlier["advice"]) if earlier else Advice())
    before = earlier.get("before") or outcome(report)
    if advice is None and not earlier:
        _nothing(report, say)
        return None
    return _told(advice or Advice.read(earlier["advice"]), before, str(report.path), say)


def _tried(steps: int, plan: Plan, say: Say) -> dict[str, Any] | None:
    if steps < LEAST:
        raise MpauditError(f"--apply: {steps} steps say nothing; give {LEAST} or more, or a trace")
    if world_size() > 1:
        raise MpauditError(
            "--apply: several processes are not tried; give the trace of one, which each of them "
            "then applies"
        )
    say(f"runs the first {steps} steps first, to see what they call for")
    advice, before = Advice(), None
    with tempfile.TemporaryDirectory(prefix="mpaudit-") as folder:
        for number in range(ROUNDS):
            report = _trial(replace(plan, steps=steps), Path(folder) / str(number), advice)
            before = before or outcome(report)
            more = _more(report, advice)
            if more is None:
                advice = without_effect(advice, report)
                break
            advice = more
            for line in render.changes(advice):
                say(f"tries: {line}")
    if advice.empty:
        _nothing(report, say, advice)
        return None
    return _told(advice, before, f"the first {steps} steps", say)


def _trial(plan: Plan, base: Path, advice: Advice) -> RunReport:
    change = None if advice.empty else {"advice": advice.data(), "before": None}
    done = follow(replace(plan, record=str(base), applied=change), base.with_suffix(".plan"))
    trace = base.with_suffix(".mpa")
    if trace.exists():
        report = verdict.read(trace)
        if report.optimizers:
            return report
    last = done.stderr.strip().splitlines()[-1:]
    told = f": {last[0]}" if last else ""
    raise MpauditError(
        f"--apply: no step of {plan.name} was seen in a trial, which ended with exit code "
        f"{done.returncode}{told}"
    )


def _more(report: RunReport, earlier: Advice) -> Advice | None:
    """What a run calls for besides what was applied in it; None for nothing."""
    found = advise(report)
    if found is None or found.empty:
        return None
    both = found.after(earlier)
    return (
        None if replace(both, reasons=earlier.reasons, beside=earlier.beside) == earlier else both
    )


def _nothing(report: RunReport, say: Say, tried: Advice | None = None) -> None:
    advice = tried if tried is not None and tried.beside else advise(report)
    if advice is None:
        say("nothing is applied: nothing ran in float16")
        return
    say("nothing is applied, the script runs as it is:")
    for line in render.told(advice):
        say(line)


def _told(advice: Advice, before: Any, of: str, say: Say) -> dict[str, Any]:
    for line in (*render.changes(advice), *advice.beside):
        say(f"applies: {line}")
    return {"advice": advice.data(), "before": before, "of": of}


def shown(trace: Path) -> Iterator[str]:
    """Before and after, in lines: what a run that something was applied in came to."""
    report = verdict.read(trace)
    change = report.meta["applied"]
    yield f"before ({change['of']}) and after:"
    yield from render.table(change["before"], outcome(report))

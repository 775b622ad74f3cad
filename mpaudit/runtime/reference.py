"""The same training in float32: three short runs in processes of their own, and what they say.

They come before the run that counts, so that what the script writes is in the end that run's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec.structs import replace

from mpaudit.errors import MpauditError
from mpaudit.runtime.divergence import START, Comparison, compare, unlike
from mpaudit.runtime.process import world_size
from mpaudit.runtime.rehearsal import Plan, Record
from mpaudit.runtime.rehearsing import follow
from mpaudit.runtime.target import How

_DIGITS = {"bfloat16": 8, "float16": 11}


def rehearse(
    name: str,
    argv: Sequence[str],
    steps: int,
    *,
    how: How,
    device: str,
    source: str | None,
    say: Callable[[str], None],
) -> Comparison:
    """Compare the first `steps` steps of a script with the same steps in float32.

    Raises MpauditError where several processes train together: each would start three more.
    """
    if world_size() > 1:
        raise MpauditError("--reference: runs of several processes are not compared; start one")
    say(f"runs the first {steps} steps three times first: as they are, and twice in float32")
    with tempfile.TemporaryDirectory(prefix="mpaudit-") as folder:
        plain = Plan("plain", steps, "", name, list(argv), how, device, source)
        comparison = _compared(plain, Path(folder))
    if comparison.refused is not None:
        say(f"cannot compare with float32: {comparison.refused}")
    for problem in comparison.problems:
        say(f"{problem.message}; {problem.consequence}")
    if comparison.refused is None and not comparison.problems:
        say(f"{comparison.steps} steps do not leave float32")
    return comparison


def _compared(plain: Plan, folder: Path) -> Comparison:
    ours = _run(plain, folder)
    if isinstance(ours, str):
        return Comparison(0, refused=ours)
    if not ours.dtypes:
        return Comparison(0, refused="nothing ran in low precision")
    skips: dict[str, list[int]] = {}
    for step in ours.steps:
        if not step.applied:
            skips.setdefault(str(step.optimizer), []).append(step.number)
    digits = min(_DIGITS[each] for each in ours.dtypes)
    found = []
    for kind in ("float32", "rounded"):
        plan = replace(plain, kind=kind, digits=digits, skips=skips, steps=len(ours.steps))
        other = _run(plan, folder)
        if isinstance(other, str):
            return Comparison(0, refused=other)
        if (why := unlike(ours, other, *START)) is not None:
            return Comparison(0, refused=why)
        found.append(other)
    return compare(ours, *found)


def _run(plan: Plan, folder: Path) -> Record | str:
    """What one rehearsal recorded; a text says why there is no record."""
    record, file = folder / f"{plan.kind}.json", folder / f"{plan.kind}.plan"
    done = follow(replace(plan, record=str(record)), file)
    how = "as it is" if plan.kind == "plain" else "in float32"
    if not record.exists():
        return f"the script, run {how}, recorded nothing (does it train with PyTorch or Keras 3?)"
    found = Record.read(record)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if _is_error(line)]
        last = f": {said[-1].strip()}" if said else ""
        if plan.kind != "plain" or not found.steps:
            return f"the script, run {how}, ended with exit code {done.returncode}{last}"
    return found


def _is_error(line: str) -> bool:
    """Whether a line of stderr is the end of a traceback ("ValueError: ...")."""
    name = line.split(":")[0]
    return name[:1].isalpha() and name.replace(".", "").isidentifier() and name != "mpaudit"

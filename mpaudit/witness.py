"""Have a script run under watch; with `--fix`, the corrected text of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mpaudit import audit, limit, remedy, verdict
from mpaudit.config import UNUSED, of_script
from mpaudit.errors import MpauditError
from mpaudit.finding import Finding
from mpaudit.runtime import launch, process
from mpaudit.runtime.offspring import or_plain
from mpaudit.runtime.reference import rehearse
from mpaudit.runtime.rehearsal import Plan
from mpaudit.runtime.sampling import Sampling
from mpaudit.runtime.target import How, Target


def run(
    name: str,
    argv: Sequence[str],
    *,
    how: How = "script",
    fix: bool,
    device: str,
    output: Path | None,
    reference: int | None = None,
    apply: str | None = None,
    every: int | None = None,
    light: bool = False,
    fail_on: Sequence[str] = (),
) -> int:
    """Run the script `name` (or module, or text); returns its exit code. The file itself is never changed.

    `reference` is how many steps are compared with float32 before that; None is not at all.
    `apply` is the trace whose advice is put into effect, or how many steps are tried to get one.
    `every` and `light` say how closely the run is looked at, as in `Sampling`. `fail_on` are limits: a
    script that ends with 0 and breaks one ends with 1.
    """
    limits = limit.limits(fail_on)
    if how == "script" and name.endswith(".ipynb"):
        raise MpauditError(
            f"run: {name} is a notebook, and only scripts are run; "
            f"`jupyter nbconvert --to script {name}` makes one of it"
        )
    with or_plain():
        program = launch.find(name, how=how)
    source = _corrected(program) if fix else None
    text = program.text if source is None else source

    def static() -> list[Finding]:
        return audit.check_text(text, program.filename, of_script())

    compared = None
    if reference is not None:
        compared = rehearse(name, argv, reference, how=how, device=device, source=source, say=_say)
    applied = None
    if apply is not None:
        plan = Plan("trial", 0, "", name, list(argv), how, device, source)
        applied = remedy.applied(apply, plan, program.filename, _say)
    path = process.trace_path(program.name, output)
    kept: list[Path] = []
    code = launch.run(
        name,
        argv,
        how=how,
        device=device,
        output=output,
        source=source,
        static=static,
        compared=compared,
        children=_options(device, fix=fix, every=every, light=light),
        applied=applied,
        sampling=Sampling(every, light),
        kept=kept.extend,
    )
    if applied is not None and path.exists():
        for line in remedy.shown(path):
            _say(line)
    if limits and code == 0:
        if not kept:
            raise MpauditError("--fail-on: the run left no trace, so nothing is judged")
        return 1 if limit.told(verdict.read(*kept), limits, _say) else 0
    return code


def _options(device: str, *, fix: bool, every: int | None, light: bool) -> list[str]:
    """The options for the processes that a script starts."""
    given = {"--fix": fix, "--light": light}
    looked = [] if every is None else ["--every", str(every)]
    return ["--device", device, *looked, *(name for name, asked in given.items() if asked)]


def _corrected(program: Target) -> str | None:
    """The repaired text, None if there is nothing to repair; says on stderr what was repaired."""
    before = audit.check_text(program.text, program.filename, of_script())
    text = audit.fix_text(program.text, program.filename, unsafe=True, ignore=(UNUSED,))
    left = [each.name for each in audit.check_text(text, program.filename, of_script())]
    fixed = [each.name for each in before if each.name not in left]
    if text == program.text:
        _say("nothing to fix in " + program.name)
        return None
    _say(f"runs a corrected copy of {program.name}: {', '.join(dict.fromkeys(fixed))}")
    if left:
        _say(f"left as it is, for there is no fix: {', '.join(dict.fromkeys(left))}")
    return text


def _say(line: str) -> None:
    print(f"mpaudit: {line}", file=sys.stderr, flush=True)

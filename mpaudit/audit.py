"""The static check: files to findings, and findings to repaired files."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from mpaudit.checks import CHECKS
from mpaudit.config import UNREADABLE, Selection, Target
from mpaudit.finding import Finding, Position, Problem, Span
from mpaudit.fix import Fix, Safety, apply
from mpaudit.protocols.protocol import Verdict, settle
from mpaudit.report import Report
from mpaudit.rewrite import write_atomically
from mpaudit.rule import rule
from mpaudit.source.analysis import Engine
from mpaudit.source.discovery import concerns, files, importers
from mpaudit.source.module import Encoding, Module, UnparsableError, decode
from mpaudit.source.project import Project
from mpaudit.source.repair import Context, repair
from mpaudit.suppress import read

MAX_ROUNDS = 10
"""Rounds of fixing: a repair may uncover or overlap another."""


@dataclass(slots=True)
class _Run:
    """One pass over files: what was read, and what was found.

    `modules` are the files that mention what a rule looks at, `importers` those that use them.
    """

    project: Project = field(default_factory=Project)
    modules: list[Module] = field(default_factory=list)
    importers: list[Module] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[tuple[Problem, Fix | None]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check(
    paths: Sequence[Path], selection: Selection | None = None, target: Target | None = None
) -> Report:
    """Check files and folders. Raises MpauditError for a path that is not there."""
    found = files(paths)
    run = _Run(Project(target))
    with _uncollected():
        for path in found:
            run.project.add(path)
            _read(run, path, named=path in paths)
        gated = {Path(module.filename) for module in run.modules}
        for path in importers(sorted(gated), [path for path in found if path not in gated]):
            module = run.project.module(path)
            if module is not None:
                run.importers.append(module)
        return _report(run, selection or Selection(), len(found))


def check_text(
    text: str, filename: str, selection: Selection | None = None, target: Target | None = None
) -> list[Finding]:
    """Check one text as if it stood in `filename`."""
    run = _Run(Project(target))
    run.project.add(Path(filename))
    with _uncollected():
        _parse(run, text, filename, Encoding())
        return list(_report(run, selection or Selection(), 1).findings)


def fix(
    paths: Sequence[Path],
    selection: Selection | None = None,
    target: Target | None = None,
    *,
    unsafe: bool,
    write: bool,
) -> tuple[Report, Mapping[str, tuple[str, str]]]:
    """Repair files: what is left to report, and each changed file's text before and after.

    Unsafe repairs are applied only if `unsafe`; nothing is written unless `write`.
    """
    selection = selection or Selection()
    report = check(paths, selection, target)
    changed: dict[str, tuple[str, str]] = {}
    fixed: dict[str, int] = {}
    for filename in sorted({finding.span.filename for finding in report.findings}):
        before = report.sources.get(filename)
        if before is None:
            continue
        after, count = _repaired(before, filename, selection, target, unsafe=unsafe)
        if after != before:
            changed[filename] = (before, after)
            fixed[filename] = count
    if write:
        for filename, (_, after) in changed.items():
            _, encoding = decode(Path(filename).read_bytes(), filename)
            write_atomically(Path(filename), after, encoding)
        report = check(paths, selection, target)
    return replace(report, fixed=fixed), changed


def fix_text(
    text: str,
    filename: str,
    *,
    unsafe: bool,
    names: set[str] | None = None,
    target: Target | None = None,
) -> str:
    """Repair one text, in as many rounds as it takes; `names` limits it to these rules."""
    selection = Selection(select=tuple(sorted(names))) if names else Selection()
    return _repaired(text, filename, selection, target, unsafe=unsafe)[0]


def _repaired(
    text: str, filename: str, selection: Selection, target: Target | None, *, unsafe: bool
) -> tuple[str, int]:
    count = 0
    findings = check_text(text, filename, selection, target)
    for _ in range(MAX_ROUNDS):
        offered = [f for f in findings if _allowed(f.fix, unsafe)]
        if not offered:
            break
        after, applied = apply(text, [f.fix for f in offered if f.fix is not None])
        left = check_text(after, filename, selection, target)
        if any(f.name == UNREADABLE for f in left) or len(left) >= len(findings):
            break
        count += sum(f.fix in applied for f in offered)
        text, findings = after, left
    return text, count


@contextmanager
def _uncollected() -> Iterator[None]:
    """Switch the garbage collector off: trees and paths hold no cycles, only much to look through."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _allowed(fix: Fix | None, unsafe: bool) -> bool:
    return fix is not None and (
        fix.safety is Safety.SAFE or (unsafe and fix.safety is Safety.UNSAFE)
    )


def _read(run: _Run, path: Path, *, named: bool) -> None:
    """Read a file; one that the user named himself is parsed even if it mentions nothing of ours."""
    filename = str(path)
    try:
        data = path.read_bytes()
    except OSError as problem:
        start = Position(1, 1)
        reason = f"the file cannot be read: {problem.strerror}"
        run.problems.append((Problem(UNREADABLE, Span(filename, start, start), reason), None))
        return
    if not concerns(data) and not named:
        return
    try:
        text, encoding = decode(data, filename)
    except UnparsableError as problem:
        run.problems.append((_unparsable(problem), None))
        return
    _parse(run, text, filename, encoding)


def _parse(run: _Run, text: str, filename: str, encoding: Encoding) -> None:
    run.sources[filename] = text
    try:
        module = Module.parse(text, filename)
    except UnparsableError as problem:
        run.problems.append((_unparsable(problem), None))
        return
    module.encoding = encoding
    run.project.add(Path(filename), module)
    if concerns(text.encode("utf-8", "replace")):
        run.modules.append(module)


def _report(run: _Run, selection: Selection, checked: int) -> Report:
    engine = Engine(run.project)
    verdicts: list[Verdict] = []
    for module in (*run.modules, *run.importers):
        verdicts.extend(engine.audit(module))
        if engine.exhausted:
            run.warnings.append(_too_large(module, engine.exhausted))
    for module in run.modules:
        for look in CHECKS:
            run.problems.extend(look(module))
    settled = settle(verdicts)
    for problem in settled:
        there = run.project.checked(problem.span.filename)
        if there is not None:
            run.sources[there.filename] = there.text
            here = [p for p in settled if p.span.filename == problem.span.filename]
            run.problems.append((problem, repair(Context(problem, there, here))))
    findings = [f for f in map(_stamp, run.problems) if selection.includes(rule(f.name))]
    standing = list(_unsuppressed(findings, run))
    return Report(standing, run.sources, checked, warnings=tuple(run.warnings))


def _too_large(module: Module, parts: Sequence[str]) -> str:
    named = ", ".join(parts[:3]) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")
    return (
        f"{module.filename}: too large to be followed to the end, so that mistakes in the order of "
        f"things are not seen there: {named}"
    )


def _unparsable(problem: UnparsableError) -> Problem:
    return Problem(UNREADABLE, problem.span, f"this cannot be read as Python: {problem}")


def _stamp(found: tuple[Problem, Fix | None]) -> Finding:
    problem, repair_of = found
    page = rule(problem.rule)
    return Finding(
        page.code,
        page.name,
        page.severity,
        problem.message,
        problem.span,
        problem.consequence,
        repair_of,
        problem.related,
        problem.moment,
        subjects=problem.subjects,
    )


def _unsuppressed(findings: list[Finding], run: _Run) -> Iterator[Finding]:
    """The findings that no comment silences; comments are read only in files with findings."""
    comments = {}
    for finding in findings:
        filename = finding.span.filename
        if filename not in run.sources:
            yield finding
            continue
        if filename not in comments:
            comments[filename] = read(run.sources[filename], filename)
            run.warnings.extend(comments[filename].warnings)
        if not comments[filename].covers(finding):
            yield finding

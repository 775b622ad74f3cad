"""The static check: files to findings, and findings to repaired files."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from mpaudit import suppress
from mpaudit.cell import localised
from mpaudit.checks import CHECKS
from mpaudit.config import UNREADABLE, Selection, Target
from mpaudit.finding import Finding, Position, Problem, Span
from mpaudit.fix import Fix, Safety, chosen
from mpaudit.protocols.protocol import Verdict, settle
from mpaudit.report import Report
from mpaudit.rewrite import replace_bytes, write_atomically
from mpaudit.rule import rule
from mpaudit.source.analysis import Engine
from mpaudit.source.discovery import concerns, files, importers
from mpaudit.source.document import Document, Script, from_text, read
from mpaudit.source.module import Module, UnparsableError
from mpaudit.source.notebook import Notebook
from mpaudit.source.notebook_json import UnreadableNotebookError
from mpaudit.source.project import Project
from mpaudit.source.repair import Context, repair

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
    documents: dict[str, Document] = field(default_factory=dict)
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
            _read_importer(run, path)
        return _report(run, selection or Selection(), len(found))


def check_text(
    text: str, filename: str, selection: Selection | None = None, target: Target | None = None
) -> list[Finding]:
    """Check one text as if it stood in `filename`; a notebook's text is its JSON."""
    try:
        document = from_text(text, filename)
    except UnparsableError as problem:
        return [_stamp((_unparsable(problem), None))]
    return list(_check(document, selection or Selection(), target).findings)


def _check(document: Document, selection: Selection, target: Target | None) -> Report:
    run = _Run(Project(target))
    run.project.add(Path(document.filename))
    with _uncollected():
        _parse(run, document)
        return _report(run, selection, 1)


def fix(
    paths: Sequence[Path],
    selection: Selection | None = None,
    target: Target | None = None,
    *,
    unsafe: bool,
    write: bool,
) -> tuple[Report, Mapping[str, tuple[str, str]]]:
    """Repair files: what is left to report, and each changed text before and after.

    A text goes by its file's name; that of a notebook's cell by that name and `:cell 3`. Unsafe
    repairs are applied only if `unsafe`; nothing is written unless `write`.
    """
    selection = selection or Selection()
    report = check(paths, selection, target)
    changed: dict[str, tuple[str, str]] = {}
    fixed: dict[str, int] = {}
    repaired: list[Document] = []
    for filename in sorted({finding.span.filename for finding in report.findings}):
        try:
            before = read(Path(filename).read_bytes(), filename)
        except (OSError, UnparsableError):
            continue
        after, count = _repaired(before, selection, target, unsafe=unsafe)
        if after.text != before.text:
            changed.update(_changes(before, after))
            fixed[filename] = count
            repaired.append(after)
    if write:
        for each in repaired:
            _write(each)
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
    try:
        document, _ = _repaired(from_text(text, filename), selection, target, unsafe=unsafe)
    except UnparsableError:
        return text
    return document.data.decode() if isinstance(document, Notebook) else document.text


def _repaired(
    document: Document, selection: Selection, target: Target | None, *, unsafe: bool
) -> tuple[Document, int]:
    count = 0
    findings = _check(document, selection, target).findings
    for _ in range(MAX_ROUNDS):
        offered = [f for f in findings if _allowed(f.fix, unsafe)]
        if not offered:
            break
        edits, applied = chosen(f.fix for f in offered if f.fix is not None)
        after = document.edited(edits)
        left = _check(after, selection, target).findings
        if _unread(left) > _unread(findings) or len(left) >= len(findings):
            break
        count += sum(f.fix in applied for f in offered)
        document, findings = after, left
    return document, count


def _unread(findings: Sequence[Finding]) -> int:
    return sum(each.name == UNREADABLE for each in findings)


def _changes(before: Document, after: Document) -> Iterator[tuple[str, tuple[str, str]]]:
    """The texts that differ: a script's, or those of single cells."""
    if not before.cells:
        yield before.filename, (before.text, after.text)
    for old, new in zip(before.cells, after.cells, strict=True):
        texts = before.text[old.start : old.end], after.text[new.start : new.end]
        if texts[0] != texts[1]:
            yield f"{before.filename}:cell {old.number}", texts


def _write(document: Document) -> None:
    path = Path(document.filename)
    if isinstance(document, Notebook):
        replace_bytes(path, document.data)
    else:
        write_atomically(path, document.text, document.encoding)


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
        document = read(data, filename)
    except UnparsableError as problem:
        run.problems.append((_unparsable(problem), None))
        return
    if named or isinstance(document, Script) or concerns(document.text.encode("utf-8", "replace")):
        _parse(run, document)  # what concerns us in a notebook may have been in its outputs only


def _parse(run: _Run, document: Document) -> None:
    run.documents[document.filename] = document.light()
    run.problems += [(_unparsable(problem), None) for problem in document.broken]
    try:
        module = document.module()
    except UnparsableError as problem:
        run.problems.append((_unparsable(problem), None))
        return
    run.project.add(Path(document.filename), module)
    if concerns(document.text.encode("utf-8", "replace")):
        run.modules.append(module)


def _read_importer(run: _Run, path: Path) -> None:
    """Read a file that imports others that concern us; it mentions nothing of ours itself."""
    try:
        document = read(path.read_bytes(), str(path))
        module = document.module()
    except (OSError, UnparsableError):
        return
    run.documents[document.filename] = document.light()
    run.project.add(path, module)
    run.importers.append(module)


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
            if there.filename not in run.documents:
                run.documents[there.filename] = Script(there.filename, there.text, there.encoding)
            here = [p for p in settled if p.span.filename == problem.span.filename]
            run.problems.append((problem, repair(Context(problem, there, here))))
    findings = [f for f in map(_stamp, run.problems) if selection.includes(rule(f.name))]
    standing = list(_unsuppressed(findings, run))
    sources = {name: document.text for name, document in run.documents.items()}
    cells = {name: each.cells for name, each in run.documents.items() if each.cells}
    return Report(
        [_placed(finding, run) for finding in standing],
        sources,
        checked,
        cells=cells,
        warnings=tuple(run.warnings),
    )


def _placed(finding: Finding, run: _Run) -> Finding:
    """A finding as it is shown: in a notebook, cells have rows of their own."""
    for filename in {finding.span.filename, *(each.span.filename for each in finding.related)}:
        document = run.documents.get(filename)
        if document is not None and document.cells:
            finding = localised(finding, filename, document.cells, document.text)
    return finding


def _too_large(module: Module, parts: Sequence[str]) -> str:
    named = ", ".join(parts[:3]) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")
    return (
        f"{module.filename}: too large to be followed to the end, so that mistakes in the order of "
        f"things are not seen there: {named}"
    )


def _unparsable(problem: UnparsableError) -> Problem:
    kind = "a notebook" if isinstance(problem, UnreadableNotebookError) else "Python"
    return Problem(UNREADABLE, problem.span, f"this cannot be read as {kind}: {problem}")


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
        document = run.documents.get(filename)
        if document is None:
            yield finding
            continue
        if filename not in comments:
            comments[filename] = suppress.read(document.code, filename, document.cells)
            run.warnings.extend(comments[filename].warnings)
        if not comments[filename].covers(finding):
            yield finding

"""Files to findings: reading, following, looking, silencing."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from msgspec import Struct, field
from msgspec.structs import replace

from mpaudit import suppress
from mpaudit.cache.record import Record
from mpaudit.cache.store import Store
from mpaudit.cell import localised
from mpaudit.config import UNREADABLE, UNUSED, Selection, Target
from mpaudit.configured import Configurations
from mpaudit.extension import registry
from mpaudit.finding import Finding
from mpaudit.following import Batch, Found, Group, unparsable
from mpaudit.report import Report, count
from mpaudit.rule import Rule, rule
from mpaudit.settings import Configuration
from mpaudit.settings.exclusion import Exclusion
from mpaudit.source.text.config_file import SUFFIXES, ConfigFile
from mpaudit.source.text.discovery import files
from mpaudit.source.text.document import Document, from_text, read
from mpaudit.source.text.parsing import UnparsableError
from mpaudit.source.text.project import Project
from mpaudit.source.text.requirement import forget
from mpaudit.survey import Survey


class _Run(Struct):
    """One pass over files: what was read, and what was found.

    `documents` are the files whose text is at hand, `exhausted` those that could not be followed whole,
    with the parts that could not be followed to their end. `folders` were checked whole; None is for a
    text that is checked as if there were no others.
    """

    configuration: Configuration
    folders: Sequence[Path] | None
    documents: dict[str, Document] = field(default_factory=dict)
    problems: list[Found] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    exhausted: dict[str, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    rests_on: set[str] = field(default_factory=set)

    def project(self, paths: Iterable[Path]) -> Project:
        """A project in which nothing is read yet, and files are known by the names they have here."""
        made = Project(lambda path: self.configuration.of(path).target)
        for path in paths:
            made.add(path)
        return made

    def selection(self, filename: str) -> Selection:
        """The rules that are on in a file."""
        return self.configuration.rules(filename)

    def widened(self, filename: str) -> bool:
        """Whether rules may be on in a file that are off by default."""
        return self.selection(filename).widened

    def take(self, groups: Iterable[Group | Record]) -> None:
        """Add what was found in files that were followed, now or earlier."""
        for group in groups:
            self.problems += group.problems
            self.exhausted.update(group.exhausted)
            self.rests_on.update(group.read)
            self.rests_on.update(group.awaited())

    def knows_callers(self, document: Document) -> bool:
        """Whether all files were checked that may use a file: those of its project."""
        if self.folders is None or document.cells:
            return True
        path = Path(document.filename).absolute()
        around = [folder.absolute() for folder in self.folders]
        around = [folder for folder in around if folder in path.parents]
        if not around or self.exhausted:
            return False
        roots = (
            p for p in path.parents if (p / ".git").exists() or (p / "pyproject.toml").exists()
        )
        root = next(roots, None)
        return root is None or any(folder == root or folder in root.parents for folder in around)


Asked = Selection | Configuration | None
"""What a check is asked for: rules, the same for all files, or settings by file; None: the default."""


def check(
    paths: Sequence[Path],
    asked: Asked = None,
    target: Target | None = None,
    *,
    cache: Path | None = None,
    jobs: int = 1,
) -> Report:
    """Check files and folders; what is known from earlier checks is taken from the folder `cache`.

    At most `jobs` processes are at work. The same is said with one and many, with a cache and without.
    Raises MpauditError for a path that is not there.
    """
    forget()
    began = perf_counter()
    run = _run(asked, target, [path for path in paths if path.is_dir()])
    found = files(paths, Exclusion(run.configuration))
    if not found:
        run.warnings.append("no Python file or notebook is left to be checked: all are excluded")
    scripts = [path for path in found if path.suffix not in SUFFIXES]
    with _uncollected():
        survey = Survey(scripts, paths, Store(cache) if cache is not None else None, jobs)
        for problem in survey.unreadable:
            run.problems.append((problem, None))
        groups, documents = survey.followed(run)
        run.remarks += survey.remarks(groups)
        run.documents.update(documents)
        run.take(groups)
        beside = Configurations(run.folders or (), Exclusion(run.configuration))
        beside.take((path for path in found if path.suffix in SUFFIXES), set(paths))
        beside.take_referred(survey.referring())
        run.problems += beside.problems
        run.warnings += beside.warnings
        run.documents.update(beside.documents)
        run.rests_on.update(registry.files())
        run.rests_on.update(str(Path(name).absolute()) for name in beside.documents)
        for name in survey.wanted(run.problems):
            _open(run, name)
        report = _report(run, found)
    origins = [str(each) for each in run.configuration.origins()] or ["no file, all is as it comes"]
    took = f"Checked {count(len(found), 'file')} in {perf_counter() - began:.2f} s"
    remarks = [*(f"Settings: {each}" for each in origins), *run.remarks, took]
    return replace(report, remarks=remarks, rests_on=frozenset(run.rests_on))


def _open(run: _Run, name: str) -> None:
    """Have the text of a file at hand: for its comments, or to show what is wrong in it."""
    if name in run.documents:
        return
    try:
        run.documents[name] = read(Path(name).read_bytes(), name).light()
    except UnparsableError as problem:
        known = any(p.rule == UNREADABLE and p.span.filename == name for p, _ in run.problems)
        if not known:
            run.problems.append((unparsable(problem), None))
    except OSError:  # it has vanished meanwhile
        return


def _run(asked: Asked, target: Target | None, folders: Sequence[Path] | None) -> _Run:
    if not isinstance(asked, Configuration):
        asked = Configuration.of_rules(asked, target)
    return _Run(asked, folders)


def check_text(
    text: str, filename: str, asked: Asked = None, target: Target | None = None
) -> list[Finding]:
    """Check one text as if it stood in `filename`; a notebook's text is its JSON."""
    try:
        document = from_text(text, filename)
    except UnparsableError as problem:
        return [unread(problem)]
    return list(check_document(document, asked, target).findings)


def check_texts(
    texts: Mapping[str, str], project: Project | None = None, asked: Asked = None
) -> list[Finding]:
    """Check texts as if they stood in these files of a project, which may have read others before.

    Others may use them that are not looked at. Raises UnparsableError for a notebook that is no JSON.
    """
    run = _run(asked, None, ())
    project = run.project(()) if project is None else project
    for filename in texts:
        project.add(Path(filename))
    with _uncollected():
        batch = Batch(project, run.widened)
        for filename, text in texts.items():
            _give(run, batch, from_text(text, filename))
        run.take(batch.follow())
        run.documents.update(batch.documents)
        return list(_report(run, [Path(filename) for filename in texts]).findings)


def check_document(
    document: Document, asked: Asked, target: Target | None, *, alone: bool = True
) -> Report:
    """Check one file's content; unless it is `alone`, others may use it that are not looked at."""
    run = _run(asked, target, None if alone else ())
    path = Path(document.filename)
    with _uncollected():
        batch = Batch(run.project([path]), run.widened)
        _give(run, batch, document)
        run.take(batch.follow())
        run.documents.update(batch.documents)
        return _report(run, [path])


def _give(run: _Run, batch: Batch, document: Document) -> None:
    """Have a document looked at: followed, or, a configuration, read."""
    if not isinstance(document, ConfigFile):
        batch.add(document)
        return
    alone = Configurations(())
    alone.look(document)
    run.problems += alone.problems
    run.documents.update(alone.documents)


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


def _report(run: _Run, looked_at: Sequence[Path]) -> Report:
    run.warnings += (
        _too_large(name, parts) for name, parts in sorted(run.exhausted.items()) if parts
    )
    standing = _standing([_stamp(each) for each in run.problems], run)
    sources = {name: document.text for name, document in run.documents.items()}
    cells = {name: each.cells for name, each in run.documents.items() if each.cells}
    return Report(
        [_placed(finding, run) for finding in standing],
        sources,
        len(looked_at),
        tuple(map(str, looked_at)),
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


def _too_large(name: str, parts: Sequence[str]) -> str:
    named = ", ".join(parts[:3]) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")
    return (
        f"{name}: too large to be followed to the end, so that mistakes in the order of "
        f"things are not seen there: {named}"
    )


def unread(problem: UnparsableError) -> Finding:
    """The finding about a file that nobody can read."""
    return _stamp((unparsable(problem), None))


def _stamp(found: Found) -> Finding:
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


def _standing(findings: list[Finding], run: _Run) -> list[Finding]:
    """The selected findings that no comment silences, and those about comments that do nothing."""
    comments = {
        name: suppress.read(document.code, name, document.cells)
        for name, document in run.documents.items()
    }
    standing: list[Finding] = []
    used: suppress.Used = set()
    for finding in findings:
        there = comments.get(finding.span.filename)
        covering = there.covering(finding) if there is not None else []
        used.update((id(each), each.word_for(finding) or "") for each in covering)
        page = rule(finding.name)
        settings = run.configuration.of(Path(finding.span.filename))
        if covering or not settings.has(page):
            continue
        if run.selection(finding.span.filename).includes(page):
            standing.append(finding)
    for name, found in comments.items():
        run.warnings.extend(found.warnings)
        if found.comments and run.selection(name).includes(rule(UNUSED)):
            standing += _unused(found, used, run, run.documents[name])
    return [run.configuration.of(Path(each.span.filename)).stamped(each) for each in standing]


def _unused(
    found: suppress.Suppressions,
    used: suppress.Used,
    run: _Run,
    document: Document,
) -> Iterator[Finding]:
    """Comments that silence nothing, where that is certain.

    It is not in a file that was not followed whole, nor, for what stands in a function, unless
    all files are known that may call it.
    """
    if document.broken or document.filename in run.exhausted:
        return
    try:
        tree = document.module().tree
    except UnparsableError:
        return
    whole, selection = run.knows_callers(document), run.selection(document.filename)
    settings = run.configuration.of(Path(document.filename))

    def judged(comment: suppress.Suppression, of: Rule) -> bool:
        known = whole or not _meets_a_body(tree, comment.first, comment.last)
        wanted = settings.has(of) and not selection.switched_off(of)
        return known and "source" in of.seen_by and wanted

    for problem in suppress.unused(found, used, document.text, document.filename, judged):
        finding = _stamp(problem)
        if not found.covers(finding):
            yield finding


def _meets_a_body(tree: ast.Module, first: int, last: int) -> bool:
    """Whether any of some rows is part of a function or a class."""
    return any(
        isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and node.lineno <= last
        and first <= (node.end_lineno or node.lineno)
        for node in ast.walk(tree)
    )

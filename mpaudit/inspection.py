"""Files to findings: reading, following, looking, silencing."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mpaudit import suppress
from mpaudit.cell import localised
from mpaudit.checks import ADVICE, CHECKS
from mpaudit.config import UNREADABLE, UNUSED, Selection, Target
from mpaudit.finding import Finding, Position, Problem, Span
from mpaudit.fix import Fix
from mpaudit.protocols.protocol import Verdict, settle
from mpaudit.report import Report
from mpaudit.rule import Rule, rule
from mpaudit.settings import Configuration
from mpaudit.settings.exclusion import Exclusion
from mpaudit.source.analysis import Engine
from mpaudit.source.discovery import concerns, files, importers
from mpaudit.source.document import Document, Script, from_text, read
from mpaudit.source.module import Module, UnparsableError
from mpaudit.source.notebook_json import UnreadableNotebookError
from mpaudit.source.project import Project
from mpaudit.source.repair import Context, repair


@dataclass(slots=True)
class _Run:
    """One pass over files: what was read, and what was found.

    `modules` are the files that mention what a rule looks at, `importers` those that use them;
    `exhausted` those that could not be followed to their end. `folders` were checked whole; None is
    for a text that is checked as if there were no others.
    """

    project: Project = field(default_factory=Project)
    modules: list[Module] = field(default_factory=list)
    importers: list[Module] = field(default_factory=list)
    documents: dict[str, Document] = field(default_factory=dict)
    problems: list[tuple[Problem, Fix | None]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    exhausted: set[str] = field(default_factory=set)
    folders: Sequence[Path] | None = ()
    configuration: Configuration = field(default_factory=Configuration.of_rules)

    def selection(self, filename: str) -> Selection:
        """The rules that are on in a file."""
        return self.configuration.rules(filename)

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


def check(paths: Sequence[Path], asked: Asked = None, target: Target | None = None) -> Report:
    """Check files and folders. Raises MpauditError for a path that is not there."""
    run = _run(asked, target, [path for path in paths if path.is_dir()])
    found = files(paths, Exclusion(run.configuration))
    if not found:
        run.warnings.append("no Python file or notebook is left to be checked: all are excluded")
    explicit = set(paths)
    with _uncollected():
        for path in found:
            run.project.add(path)
            _read(run, path, named=path in explicit)
        gated = {Path(module.filename) for module in run.modules}
        for path in importers(sorted(gated), [path for path in found if path not in gated]):
            _read_importer(run, path)
        return _report(run, found)


def _run(asked: Asked, target: Target | None, folders: Sequence[Path] | None) -> _Run:
    if not isinstance(asked, Configuration):
        asked = Configuration.of_rules(asked, target)
    project = Project(lambda path: asked.of(path).target)
    return _Run(project, folders=folders, configuration=asked)


def check_text(
    text: str, filename: str, asked: Asked = None, target: Target | None = None
) -> list[Finding]:
    """Check one text as if it stood in `filename`; a notebook's text is its JSON."""
    try:
        document = from_text(text, filename)
    except UnparsableError as problem:
        return [unparsable(problem)]
    return list(check_document(document, asked, target).findings)


def check_texts(
    texts: Mapping[str, str], project: Project, selection: Selection | None = None
) -> list[Finding]:
    """Check texts as if they stood in these files of a project, which may have read others before.

    Others may use them that are not looked at. Raises UnparsableError for a notebook that is no JSON.
    """
    run = _Run(project, configuration=Configuration.of_rules(selection))
    for filename in texts:
        project.add(Path(filename))
    with _uncollected():
        for filename, text in texts.items():
            _parse(run, from_text(text, filename))
        return list(_report(run, [Path(filename) for filename in texts]).findings)


def check_document(
    document: Document, asked: Asked, target: Target | None, *, alone: bool = True
) -> Report:
    """Check one file's content; unless it is `alone`, others may use it that are not looked at."""
    run = _run(asked, target, None if alone else ())
    run.project.add(Path(document.filename))
    with _uncollected():
        _parse(run, document)
        return _report(run, [Path(document.filename)])


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
    concerned = named or concerns(data)
    if not concerned and not suppress.mentioned(data):
        return
    try:
        document = read(data, filename)
    except UnparsableError as problem:
        run.problems.append((_unparsable(problem), None))
        return
    if not concerned:
        run.documents[filename] = document.light()  # for its comments
    elif (
        named or isinstance(document, Script) or concerns(document.text.encode("utf-8", "replace"))
    ):
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


def _report(run: _Run, looked_at: Sequence[Path]) -> Report:
    engine = Engine(run.project)
    verdicts: list[Verdict] = []
    for module in (*run.modules, *run.importers):
        verdicts.extend(engine.audit(module))
        if engine.exhausted:
            run.exhausted.add(module.filename)
            run.warnings.append(_too_large(module, engine.exhausted))
    for module in run.modules:
        widened = run.selection(module.filename).widened
        for look in (*CHECKS, *(ADVICE if widened else ())):
            run.problems.extend(look(module))
    settled = settle(verdicts)
    for problem in settled:
        there = run.project.checked(problem.span.filename)
        if there is not None:
            if there.filename not in run.documents:
                run.documents[there.filename] = Script(there.filename, there.text, there.encoding)
            here = [p for p in settled if p.span.filename == problem.span.filename]
            run.problems.append((problem, repair(Context(problem, there, here))))
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


def _too_large(module: Module, parts: Sequence[str]) -> str:
    named = ", ".join(parts[:3]) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")
    return (
        f"{module.filename}: too large to be followed to the end, so that mistakes in the order of "
        f"things are not seen there: {named}"
    )


def unparsable(problem: UnparsableError) -> Finding:
    """The finding about a file that nobody can read."""
    return _stamp((_unparsable(problem), None))


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
        if not covering and run.selection(finding.span.filename).includes(rule(finding.name)):
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

    It is not in a file that was not followed to its end, nor, for what stands in a function, unless
    all files are known that may call it.
    """
    if document.broken or document.filename in run.exhausted:
        return
    try:
        tree = (run.project.checked(document.filename) or document.module()).tree
    except UnparsableError:
        return
    whole, selection = run.knows_callers(document), run.selection(document.filename)

    def judged(comment: suppress.Suppression, of: Rule) -> bool:
        known = whole or not _meets_a_body(tree, comment.first, comment.last)
        return known and "source" in of.seen_by and not selection.switched_off(of)

    for problem in suppress.unused(found, used, document.text, document.filename, judged):
        finding = _stamp(problem)
        if not found.covers(finding):
            yield finding


def _meets_a_body(tree: ast.Module, first: int, last: int) -> bool:
    """Whether any of some rows is part of a function or a class."""
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and node.lineno <= last
        and first <= (node.end_lineno or node.lineno)
        for node in ast.walk(tree)
    )

"""What `mpaudit check` does once its options are read; it prints nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from mpaudit import audit
from mpaudit.config import UNREADABLE
from mpaudit.errors import MpauditError
from mpaudit.render import concise, diff, fixes, formats, settings
from mpaudit.report import Report, count, shown
from mpaudit.settings import Configuration
from mpaudit.settings.exclusion import Exclusion
from mpaudit.source.text.discovery import files

STDIN = Path("-")


class Wanted(Struct, frozen=True):
    """The options of a check; `stdin_filename` names what comes from standard input."""

    paths: tuple[Path, ...]
    configuration: Configuration
    fix: bool = False
    fix_only: bool = False
    unsafe_fixes: bool = False
    show_fixes: bool = False
    diff: bool = False
    add_ignore: str | None = None
    output_format: str = "full"
    statistics: bool = False
    exit_zero: bool = False
    exit_non_zero_on_fix: bool = False
    baseline: str = ""
    write_baseline: bool = False
    diff_base: str | None = None
    cache: Path | None = None
    jobs: int = 1
    show_files: bool = False
    show_settings: bool = False
    stdin_filename: Path | None = None
    verbose: bool = False
    quiet: bool = False
    silent: bool = False
    watch: bool = False

    def __post_init__(self) -> None:
        once = {
            "--add-ignore": self.add_ignore is not None,
            "--write-baseline": self.write_baseline,
            "--show-files": self.show_files,
            "--show-settings": self.show_settings,
            "standard input": STDIN in self.paths or self.stdin_filename is not None,
        }
        refused = next((name for name, asked in once.items() if asked), None)
        if self.watch and refused is not None:
            raise MpauditError(f"check: --watch cannot be combined with {refused}")

    @property
    def reads_stdin(self) -> bool:
        """Whether standard input is checked. Raises MpauditError if other paths are given too."""
        wanted = STDIN in self.paths or (self.stdin_filename is not None and not self.paths)
        if (wanted or self.stdin_filename is not None) and self.paths not in ((), (STDIN,)):
            raise MpauditError("check: standard input (-) cannot be checked together with files")
        return wanted


class Outcome(Struct, frozen=True):
    """What is to be printed, `notes` on stderr; `content` is the repaired standard input.

    `unread` are the findings about files that nobody can read, where no others are shown. `rests_on` are
    the absolute paths that the answer depends on, `written` the files that were repaired.
    """

    text: str
    broken: bool
    notes: list[str] = field(default_factory=list)
    content: bytes | None = None
    unread: list[str] = field(default_factory=list)
    rests_on: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()


def run(wanted: Wanted, stdin: Callable[[], bytes], *, colour: bool) -> Outcome:
    """Check, repair or silence. Raises MpauditError for options that exclude one another."""
    outcome = _run(wanted, stdin, colour=colour)
    notes = [] if wanted.quiet else outcome.notes
    return replace(outcome, notes=[] if wanted.silent else [*notes, *outcome.unread])


def _run(wanted: Wanted, stdin: Callable[[], bytes], *, colour: bool) -> Outcome:
    if wanted.add_ignore is not None and (wanted.fix or wanted.diff):
        raise MpauditError("check: --add-ignore cannot be combined with --fix or --diff")
    if wanted.write_baseline and (wanted.diff or wanted.add_ignore is not None):
        raise MpauditError("check: --write-baseline cannot be combined with --diff or --add-ignore")
    if wanted.statistics and wanted.diff:
        raise MpauditError("check: --statistics cannot be combined with --diff")
    if wanted.show_files or wanted.show_settings:
        return _shown(wanted)
    content = None
    if wanted.reads_stdin:
        report, changes, content = _of_stdin(wanted, stdin)
    else:
        report, changes = _of_files(wanted)
    report = replace(
        report, unsafe_fixes=wanted.unsafe_fixes, fixing=wanted.fix, quiet=wanted.quiet
    )
    notes = list(report.remarks) if wanted.verbose else []
    notes += [f"warning: {each}" for each in report.warnings]
    if wanted.diff:
        outcome = _difference(report, changes, notes, colour=colour)
        broken = outcome.broken and not wanted.exit_zero
        return replace(outcome, broken=broken, rests_on=report.rests_on)
    if wanted.add_ignore is not None:
        silenced = sum(sum(each.values()) for each in report.fixed.values())
        notes.append(f"Silenced {count(silenced, 'finding')}.")
        report = replace(report, fixed={})
    report, more = _unaccepted(wanted, report)
    notes += more
    broken = not wanted.exit_zero and bool(report.findings)
    if wanted.fix_only:
        text = "" if wanted.quiet else fixes.alone(report, listed=wanted.show_fixes)
        unread = _unread(report)
        broken = not wanted.exit_zero and bool(unread)
    else:
        unread = []
        render = formats.counted if wanted.statistics else formats.rendered
        report = replace(report, listing=wanted.show_fixes)
        text = render(report, wanted.output_format, colour=colour)
    if wanted.exit_non_zero_on_fix and report.fixed:
        broken = True
    written = frozenset(report.fixed)
    return Outcome(text, broken, notes, content, unread, report.rests_on, written)


def _unaccepted(wanted: Wanted, report: Report) -> tuple[Report, list[str]]:
    """What a branch adds, and no baseline accepts; and what is to be said about that."""
    if wanted.diff_base is None and not wanted.write_baseline and not wanted.baseline:
        return report, []
    from mpaudit import baseline

    notes: list[str] = []
    if wanted.diff_base is not None:
        report, notes = _added(wanted, wanted.diff_base, report)
    if wanted.write_baseline:
        path = Path(wanted.baseline) if wanted.baseline else baseline.DEFAULT
        held = baseline.write(report, path)
        use = "" if wanted.baseline else f"; --baseline {path} reads it"
        notes.append(f"{shown(str(path))} now holds {count(held, 'finding')}{use}.")
        return replace(report, findings=()), notes
    if wanted.baseline:
        report, more = baseline.new(report, baseline.read(Path(wanted.baseline)))
        notes += more
    return report, notes


def _added(wanted: Wanted, reference: str, report: Report) -> tuple[Report, list[str]]:
    from mpaudit import baseline, history

    paths: tuple[Path, ...] = wanted.paths or (Path(),)
    if wanted.reads_stdin:
        if wanted.stdin_filename is None:
            raise MpauditError("check: --diff-base needs --stdin-filename to compare what it reads")
        paths = (wanted.stdin_filename,)
    with history.past(reference) as past:
        then = past.then(paths)
        asked = wanted.configuration.of_copy(past.folder, past.root)
        before = audit.check(then, asked, jobs=wanted.jobs) if then else Report(())
        entries = [
            replace(each, file=past.renamed.get(each.file, each.file))
            for each in baseline.of_report(before, past.folder)
        ]
        old = len(report.findings)
        report, _ = baseline.new(report, baseline.Baseline(tuple(entries), past.root))
        old -= len(report.findings)
        note = f"{count(old, 'finding')} of {past.commit[:10]}, where the branch left {reference}."
        return report, [f"Left out: {note}"] if old else []


def _shown(wanted: Wanted) -> Outcome:
    """What would be checked, and how, instead of checking it."""
    found = files(wanted.paths or (Path(),), Exclusion(wanted.configuration))
    if wanted.show_files:
        return Outcome("".join(f"{each.absolute()}\n" for each in sorted(found)), broken=False)
    if not found:
        raise MpauditError("check: no file is left whose settings could be shown")
    path = min(found)
    return Outcome(settings.render(wanted.configuration.of(path), path), broken=False)


Changes = Mapping[str, tuple[str, str]]


def _of_files(wanted: Wanted) -> tuple[Report, Changes]:
    paths, asked = wanted.paths or (Path(),), wanted.configuration
    cache, jobs = wanted.cache, wanted.jobs
    if wanted.add_ignore is not None:
        reason = " ".join(wanted.add_ignore.split())
        report, silenced = audit.add_ignore(paths, asked, reason=reason, cache=cache, jobs=jobs)
        return replace(report, fixed={"": {"": silenced}}), {}
    if wanted.fix or wanted.diff:
        write = wanted.fix and not wanted.diff
        return audit.fix(
            paths, asked, unsafe=wanted.unsafe_fixes, write=write, cache=cache, jobs=jobs
        )
    return audit.check(paths, asked, cache=cache, jobs=jobs), {}


def _of_stdin(wanted: Wanted, stdin: Callable[[], bytes]) -> tuple[Report, Changes, bytes | None]:
    if wanted.add_ignore is not None:
        raise MpauditError("check: --add-ignore writes to files and takes no standard input")
    filename, data = str(wanted.stdin_filename or STDIN), stdin()
    if not (wanted.fix or wanted.diff):
        return audit.check_content(data, filename, wanted.configuration), {}, None
    report, changes, content = audit.fix_content(
        data, filename, wanted.configuration, unsafe=wanted.unsafe_fixes
    )
    return report, changes, None if wanted.diff else content


def _difference(report: Report, changes: Changes, notes: list[str], *, colour: bool) -> Outcome:
    """What a fix would change; what cannot be read cannot be called clean either."""
    hidden = count(report.hidden(), "additional fix")
    more = f" ({hidden} available with `--unsafe-fixes`)" if report.hidden() else ""
    fixed = report.repaired
    outcome = f"Would fix {count(fixed, 'error')}" if fixed else "No errors would be fixed"
    unread = _unread(report)
    notes.append(f"{outcome}{more}.")
    text = diff.render(changes, colour=colour)
    return Outcome(text, bool(changes or unread), notes, unread=unread)


def _unread(report: Report) -> list[str]:
    """The findings about files that nobody can read, which are said whatever is asked for."""
    unread = [each for each in report.findings if each.name == UNREADABLE]
    if not unread:
        return []
    return [concise.render(replace(report, findings=unread, fixed={}, fixing=False)).rstrip("\n")]

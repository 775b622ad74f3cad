"""What `mpaudit check` does once its options are read; it prints nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mpaudit import audit
from mpaudit.config import UNREADABLE, Selection, Target
from mpaudit.errors import MpauditError
from mpaudit.render import concise, diff, formats
from mpaudit.report import Report, count

STDIN = Path("-")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options of a check; `stdin_filename` names what comes from standard input."""

    paths: tuple[Path, ...]
    selection: Selection
    target: Target
    fix: bool = False
    unsafe_fixes: bool = False
    diff: bool = False
    add_ignore: str | None = None
    output_format: str = "full"
    statistics: bool = False
    stdin_filename: Path | None = None

    @property
    def reads_stdin(self) -> bool:
        """Whether standard input is checked. Raises MpauditError if other paths are given too."""
        wanted = STDIN in self.paths or (self.stdin_filename is not None and not self.paths)
        if (wanted or self.stdin_filename is not None) and self.paths not in ((), (STDIN,)):
            raise MpauditError("check: standard input (-) cannot be checked together with files")
        return wanted


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is to be printed, `notes` on stderr; `content` is the repaired standard input."""

    text: str
    broken: bool
    notes: list[str] = field(default_factory=list)
    content: bytes | None = None


def run(wanted: Wanted, stdin: Callable[[], bytes], *, colour: bool) -> Outcome:
    """Check, repair or silence. Raises MpauditError for options that exclude one another."""
    if wanted.add_ignore is not None and (wanted.fix or wanted.diff):
        raise MpauditError("check: --add-ignore cannot be combined with --fix or --diff")
    if wanted.statistics and wanted.diff:
        raise MpauditError("check: --statistics cannot be combined with --diff")
    content = None
    if wanted.reads_stdin:
        report, changes, content = _of_stdin(wanted, stdin)
    else:
        report, changes = _of_files(wanted)
    report = replace(report, unsafe_fixes=wanted.unsafe_fixes, fixing=wanted.fix)
    notes = [f"warning: {each}" for each in report.warnings]
    if wanted.diff:
        return _difference(report, changes, notes, colour=colour)
    if wanted.add_ignore is not None:
        notes.append(f"Silenced {count(sum(report.fixed.values()), 'finding')}.")
        report = replace(report, fixed={})
    render = formats.counted if wanted.statistics else formats.rendered
    text = render(report, wanted.output_format, colour=colour)
    return Outcome(text, bool(report.findings), notes, content)


Changes = Mapping[str, tuple[str, str]]


def _of_files(wanted: Wanted) -> tuple[Report, Changes]:
    paths, selection, target = wanted.paths or (Path(),), wanted.selection, wanted.target
    if wanted.add_ignore is not None:
        reason = " ".join(wanted.add_ignore.split())
        report, silenced = audit.add_ignore(paths, selection, target, reason=reason)
        return replace(report, fixed={"": silenced}), {}
    if wanted.fix or wanted.diff:
        write = wanted.fix and not wanted.diff
        return audit.fix(paths, selection, target, unsafe=wanted.unsafe_fixes, write=write)
    return audit.check(paths, selection, target), {}


def _of_stdin(wanted: Wanted, stdin: Callable[[], bytes]) -> tuple[Report, Changes, bytes | None]:
    if wanted.add_ignore is not None:
        raise MpauditError("check: --add-ignore writes to files and takes no standard input")
    filename, data = str(wanted.stdin_filename or STDIN), stdin()
    if not (wanted.fix or wanted.diff):
        return audit.check_content(data, filename, wanted.selection, wanted.target), {}, None
    report, changes, content = audit.fix_content(
        data, filename, wanted.selection, wanted.target, unsafe=wanted.unsafe_fixes
    )
    return report, changes, None if wanted.diff else content


def _difference(report: Report, changes: Changes, notes: list[str], *, colour: bool) -> Outcome:
    """What a fix would change; what cannot be read cannot be called clean either."""
    hidden = count(report.hidden(), "additional fix")
    more = f" ({hidden} available with `--unsafe-fixes`)" if report.hidden() else ""
    fixed = sum(report.fixed.values())
    outcome = f"Would fix {count(fixed, 'error')}" if fixed else "No errors would be fixed"
    unread = [each for each in report.findings if each.name == UNREADABLE]
    if unread:
        shown = replace(report, findings=unread, fixed={}, fixing=False)
        notes.append(concise.render(shown).rstrip("\n"))
    notes.append(f"{outcome}{more}.")
    return Outcome(diff.render(changes, colour=colour), bool(changes or unread), notes)

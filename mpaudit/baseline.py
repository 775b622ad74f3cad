"""Findings that are accepted as they are, and how they are known again when a project has changed.

An entry names file, rule and the text of the line, and the lines around it by a digest; no row, so
that what is put in above changes nothing. A finding is accepted if an entry of its file has its rule
and its line's text; where a file is gone, its entries stand for findings in any other file, so that
files can be moved. Each entry accepts one finding: a copy of an old mistake is a new one.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from mpaudit.errors import MpauditError
from mpaudit.finding import Finding
from mpaudit.report import Report, count, line
from mpaudit.rule import rule

DEFAULT = Path("mpaudit-baseline.json")
"""Where a baseline is written if nothing else is said."""
VERSION = 1
_AROUND = 2  # lines before and behind


class Entry(Struct, frozen=True, order=True):
    """One accepted finding: where, which rule, what its line says, and what the lines around it say."""

    file: str
    rule: str
    text: str
    around: str


class Baseline(Struct, frozen=True):
    """Entries; their files count from `folder`."""

    entries: tuple[Entry, ...]
    folder: Path


def read(path: Path) -> Baseline:
    """The baseline in a file. Raises MpauditError where there is none, or it is broken."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != VERSION:
            raise MpauditError(
                f"{path}: a baseline of another mpaudit (version {data['version']!r}); "
                "remove it, and --write-baseline makes it anew"
            )
        entries = tuple(Entry(**_strings(each)) for each in data["findings"])
    except FileNotFoundError:
        raise MpauditError(
            f"{path}: there is no such baseline; --write-baseline makes it"
        ) from None
    except OSError as problem:
        raise MpauditError(f"{path}: the baseline cannot be read: {problem.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise MpauditError(
            f"{path}: this is no baseline, or a broken one; remove it, and --write-baseline makes it anew"
        ) from None
    return Baseline(entries, path.absolute().parent)


def write(report: Report, path: Path) -> int:
    """Accept what a report holds: write its findings to a file. Returns how many it then holds.

    What the file says of other files is kept, as long as they are there. Raises MpauditError.
    """
    folder = path.absolute().parent
    entries = list(of_report(report, folder))
    looked_at = {_relative(each, folder) for each in report.files}
    if path.exists():
        before = read(path).entries
        entries += [
            each for each in before if each.file not in looked_at and (folder / each.file).exists()
        ]
    rows = [
        {
            "file": e.file,
            "code": rule(e.rule).code,
            "rule": e.rule,
            "text": e.text,
            "around": e.around,
        }
        for e in sorted(entries)
    ]
    text = json.dumps({"version": VERSION, "findings": rows}, indent=1, ensure_ascii=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        temporary.replace(path)
    except OSError as problem:
        temporary.unlink(missing_ok=True)
        raise MpauditError(f"{path}: the baseline cannot be written: {problem.strerror}") from None
    return len(entries)


def of_report(report: Report, folder: Path) -> Iterable[Entry]:
    """An entry for each finding of a report, in order."""
    return [_entry(each, report, folder) for each in report.findings]


def new(report: Report, baseline: Baseline) -> tuple[Report, list[str]]:
    """A report without what is accepted, and what is to be said about the baseline."""
    entries = list(of_report(report, baseline.folder))
    left = Counter(baseline.entries)
    accepted: set[int] = set()
    here = {each.file for each in entries}
    gone = {e.file for e in left if e.file not in here and not (baseline.folder / e.file).exists()}
    stages: list[tuple[Callable[[Entry], Any], bool]] = [
        (lambda e: e, False),
        (lambda e: (e.file, e.rule, e.text), False),
        (lambda e: (e.rule, e.text, e.around), True),
        (lambda e: (e.rule, e.text), True),
    ]
    for key, moved in stages:
        offered: dict[Any, list[Entry]] = {}
        for entry in left.elements():
            if not moved or entry.file in gone:
                offered.setdefault(key(entry), []).append(entry)
        for number, entry in enumerate(entries):
            candidates = offered.get(key(entry))
            if number not in accepted and candidates:
                left[candidates.pop()] -= 1
                accepted.add(number)
    kept = [each for number, each in enumerate(report.findings) if number not in accepted]
    return replace(report, findings=kept), _notes(len(accepted), +left, report, baseline)


def _notes(accepted: int, left: Counter[Entry], report: Report, baseline: Baseline) -> list[str]:
    notes = [f"{count(accepted, 'finding')} accepted by the baseline."] if accepted else []
    looked_at = {_relative(each, baseline.folder) for each in report.files}
    stale = sum(
        n for e, n in left.items() if e.file in looked_at or not (baseline.folder / e.file).exists()
    )
    if stale:
        subject = (
            "1 entry of the baseline is" if stale == 1 else f"{stale} entries of the baseline are"
        )
        notes.append(f"{subject} found no more; --write-baseline takes out what is gone.")
    return notes


def _entry(finding: Finding, report: Report, folder: Path) -> Entry:
    text = report.text(finding.span) or ""
    row = finding.span.start.row
    near: Sequence[int] = [*range(row - _AROUND, row), *range(row + 1, row + 1 + _AROUND)]
    around = "\0".join(_plain(line(text, each)) if each > 0 else "" for each in near)
    return Entry(
        _relative(finding.span.filename, folder),
        finding.name,
        _plain(line(text, row)),
        sha256(around.encode(errors="backslashreplace")).hexdigest()[:12],
    )


def _plain(text: str) -> str:
    return " ".join(text.split())


def _relative(filename: str, folder: Path) -> str:
    path = os.path.relpath(os.path.abspath(filename), folder)  # noqa: PTH100 - links stay as they are
    return path.replace(os.sep, "/")


def _strings(row: dict[str, object]) -> dict[str, str]:
    names = ("file", "rule", "text", "around")
    found = {name: row[name] for name in names}
    if not all(isinstance(each, str) for each in found.values()):
        raise TypeError
    return {name: str(each) for name, each in found.items()}

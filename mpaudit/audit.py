"""The static check: files to findings, and findings to repaired files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from mpaudit import suppress
from mpaudit.config import UNREADABLE, UNUSED, Selection, Target
from mpaudit.errors import MpauditError
from mpaudit.finding import Finding
from mpaudit.fix import Edit, Fix, Safety, chosen
from mpaudit.inspection import Asked, check, check_document, check_text, check_texts, unread
from mpaudit.report import Report
from mpaudit.report import count as count_of
from mpaudit.rewrite import replace_bytes, write_atomically
from mpaudit.source.text.config_file import SUFFIXES
from mpaudit.source.text.document import Document, Script, from_text, read
from mpaudit.source.text.notebook import Notebook
from mpaudit.source.text.parsing import UnparsableError

__all__ = [
    "add_ignore",
    "check",
    "check_content",
    "check_text",
    "check_texts",
    "fix",
    "fix_content",
    "fix_text",
]

MAX_ROUNDS = 10
"""Rounds of fixing: a repair may uncover or overlap another."""


def check_content(
    data: bytes,
    filename: str,
    asked: Asked = None,
    target: Target | None = None,
) -> Report:
    """Check bytes as if they stood in `filename`."""
    try:
        document = read(data, filename)
    except UnparsableError as problem:
        return Report([unread(problem)], checked=1)
    return check_document(document, asked, target, alone=False)


def fix_content(
    data: bytes,
    filename: str,
    asked: Asked = None,
    target: Target | None = None,
    *,
    unsafe: bool,
) -> tuple[Report, Mapping[str, tuple[str, str]], bytes]:
    """Repair bytes as if they stood in `filename`: what is left, what differs, the new bytes."""
    try:
        before = read(data, filename)
    except UnparsableError as problem:
        return Report([unread(problem)], checked=1), {}, data
    if not _writable(before, data):
        report = check_document(before, asked, target, alone=False)
        return replace(report, warnings=(*report.warnings, _kept(before))), {}, data
    after, count = _repaired(before, asked, target, unsafe=unsafe, alone=False)
    if after.text == before.text:
        return check_document(before, asked, target, alone=False), {}, data
    report = check_document(after, asked, target, alone=False)
    changed = dict(_changes(before, after))
    content = after.data if isinstance(after, Notebook) else after.encoding.encode(after.text)
    return replace(report, fixed={filename: count}), changed, content


def fix(
    paths: Sequence[Path],
    asked: Asked = None,
    target: Target | None = None,
    *,
    unsafe: bool,
    write: bool,
    cache: Path | None = None,
    jobs: int = 1,
) -> tuple[Report, Mapping[str, tuple[str, str]]]:
    """Repair files: what is left to report, and each changed text before and after.

    A text goes by its file's name; that of a notebook's cell by that name and `:cell 3`. Unsafe
    repairs are applied only if `unsafe`; nothing is written unless `write`.
    """
    report = check(paths, asked, target, cache=cache, jobs=jobs)
    changed: dict[str, tuple[str, str]] = {}
    fixed: dict[str, Counter[str]] = {}
    repaired: list[Document] = []
    warnings: list[str] = []
    for filename in sorted({finding.span.filename for finding in report.findings}):
        there = [each for each in report.findings if each.span.filename == filename]
        if filename.endswith(SUFFIXES) and not any(each.fix for each in there):
            continue  # a file that others name, which nobody asked to be edited
        if all(each.name == UNREADABLE for each in there):
            continue
        try:
            data = Path(filename).read_bytes()
            before = read(data, filename)
        except (OSError, UnparsableError):
            continue
        if not _writable(before, data):
            warnings.append(_kept(before))
            continue
        edits, removed = chosen(
            each.fix
            for each in report.findings
            if each.span.filename == filename and each.name == UNUSED and each.fix
        )  # alone, the file does not show what others silence in it
        plain = before.edited(edits) if edits else before
        after, count = _repaired(plain, asked, target, unsafe=unsafe, alone=False)
        count[UNUSED] += len(removed)
        if after.text != before.text:
            changed.update(_changes(before, after))
            fixed[filename] = +count
            repaired.append(after)
    if write:
        for number, each in enumerate(repaired):
            try:
                _write(each)
            except MpauditError as problem:
                done = f" ({count_of(number, 'other file')} repaired before it)" if number else ""
                raise MpauditError(f"{problem}{done}") from problem
        report = check(paths, asked, target, cache=cache, jobs=jobs)
    return replace(report, fixed=fixed, warnings=(*report.warnings, *warnings)), changed


def fix_text(
    text: str,
    filename: str,
    *,
    unsafe: bool,
    names: set[str] | None = None,
    ignore: tuple[str, ...] = (),
    target: Target | None = None,
) -> str:
    """Repair one text, in as many rounds as it takes; `names` limits it to these rules."""
    selection = Selection(tuple(sorted(names or ())), ignore)
    try:
        document, _ = _repaired(from_text(text, filename), selection, target, unsafe=unsafe)
    except UnparsableError:
        return text
    return document.data.decode() if isinstance(document, Notebook) else document.text


def _repaired(
    document: Document,
    asked: Asked,
    target: Target | None,
    *,
    unsafe: bool,
    alone: bool = True,
) -> tuple[Document, Counter[str]]:
    count: Counter[str] = Counter()
    findings = check_document(document, asked, target, alone=alone).findings
    for _ in range(MAX_ROUNDS):
        offered = [f for f in findings if _allowed(f.fix, unsafe)]
        if not offered:
            break
        edits, applied = chosen(f.fix for f in offered if f.fix is not None)
        after = document.edited(edits)
        left = check_document(after, asked, target, alone=alone).findings
        if _unread(left) > _unread(findings) or len(left) >= len(findings):
            break
        count.update(f.name for f in offered if f.fix in applied)
        document, findings = after, left
    return document, count


def add_ignore(
    paths: Sequence[Path],
    asked: Asked = None,
    target: Target | None = None,
    *,
    reason: str,
    cache: Path | None = None,
    jobs: int = 1,
) -> tuple[Report, int]:
    """Silence every finding by a comment in its file: what is left, and how many are silenced.

    What no comment can silence is left: files that cannot be read, comments that silence nothing.
    """
    report = check(paths, asked, target, cache=cache, jobs=jobs)
    files: dict[str, list[Finding]] = {}
    for finding in report.findings:
        silent = finding.span.filename.endswith(".json")  # which has no comments
        if finding.name not in (UNREADABLE, UNUSED) and not silent:
            files.setdefault(finding.span.filename, []).append(finding)
    for filename, findings in files.items():
        data = Path(filename).read_bytes()
        document = read(data, filename)
        if not _writable(document, data):
            raise MpauditError(_kept(document))
        edits = list(_comments(document, findings, reason))
        _write(document.edited(edits))
    after = check(paths, asked, target, cache=cache, jobs=jobs)
    return after, len(report.findings) - len(after.findings)


def _comments(document: Document, findings: Sequence[Finding], reason: str) -> Iterator[Edit]:
    if not document.cells:
        yield from suppress.added(document.text, document.code, findings, reason)
    for cell in document.cells:
        text, code = (each[cell.start : cell.end] for each in (document.text, document.code))
        own = [each for each in findings if each.span.cell == cell.number]
        for edit in suppress.added(text, code, own, reason) if own else ():
            yield Edit(cell.start + edit.start, cell.start + edit.end, edit.content)


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


def _writable(document: Document, data: bytes) -> bool:
    """Whether what is not edited would be written as it was: not every encoding gives its bytes back."""
    return not isinstance(document, Script) or document.encoding.gives_back(data, document.text)


def _kept(document: Document) -> str:
    name = document.encoding.name if isinstance(document, Script) else ""
    return f"{document.filename}: it is left as it is: written anew in {name} it would have other bytes"


def _write(document: Document) -> None:
    path = Path(document.filename)
    if isinstance(document, Notebook):
        replace_bytes(path, document.data)
    else:
        write_atomically(path, document.text, document.encoding)


def _allowed(fix: Fix | None, unsafe: bool) -> bool:
    return fix is not None and (
        fix.safety is Safety.SAFE or (unsafe and fix.safety is Safety.UNSAFE)
    )

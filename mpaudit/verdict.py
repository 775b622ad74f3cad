"""Two witnesses, one verdict: what a trace recorded and what the source of its script shows."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from mpaudit import audit, suppress
from mpaudit.config import UNUSED
from mpaudit.errors import MpauditError
from mpaudit.finding import Finding, Problem
from mpaudit.rule import rule
from mpaudit.runtime.imported import digest
from mpaudit.runtime.merge import merge
from mpaudit.runtime.summary import RunReport, join, stamp, summarise
from mpaudit.runtime.trace import Reader
from mpaudit.settings import Configuration
from mpaudit.settings.exclusion import Exclusion
from mpaudit.source.text.discovery import concerns
from mpaudit.source.text.parsing import UnparsableError, decode

Say = Callable[[str], None]


def _told(line: str) -> None:
    print(f"mpaudit: {line}", file=sys.stderr)


def read(*traces: Path, say: Say = _told) -> RunReport:
    """The report of a trace, of the traces of a run's ranks, or of the last run in a folder.

    `say` is told of other runs that a folder holds, and of settings that are broken. Raises
    MpauditError for a file that is no trace, and for traces of several runs.

    The source is the text that ran: the trace keeps it for the script; other files are read from
    disk, and those of the user's that are still what was imported are checked as the script is.
    Findings that the code's author silenced are left out, whoever saw them.
    """
    found = [each for path in traces for each in _gathered(path, say)]
    if len(found) == 1:
        return replace(_read(found[0], say), path=traces[0])
    with tempfile.TemporaryDirectory(prefix="mpaudit-") as folder:
        merge(found, Path(folder, "run.mpa"))
        return replace(_read(Path(folder, "run.mpa"), say), path=traces[0])


def merged(traces: Sequence[Path], output: Path | None = None, say: Say = _told) -> Path:
    """Make one trace of several; returns where it is: `output`, or their name without a rank.

    Raises MpauditError where they are not of one run, or where `output` is one of them.
    """
    found = [each for path in traces for each in _gathered(path, say)]
    output = output or found[0].with_name(re.sub(r"\.r\d+(?=\.mpa$)", "", found[0].name))
    if any(each.absolute() == output.absolute() for each in found):
        raise MpauditError(f"{output}: is one of the traces; say with -o where the one trace goes")
    merge(found, output)
    return output


def _gathered(path: Path, say: Say) -> list[Path]:
    """The traces that a path stands for: itself, or those of the last run in a folder."""
    if not path.is_dir():
        return [path]
    runs: dict[str, list[tuple[str, Path]]] = {}
    for each in sorted(path.glob("*.mpa")):
        with Reader(each) as reader:
            meta = reader.meta
        if not meta.get("merged"):
            started = str(meta.get("started"))
            runs.setdefault(str(meta.get("run")), []).append((started, each))
    if not runs:
        raise MpauditError(f"{path}: there are no traces (.mpa) in this folder")
    last = max(runs.values(), key=max)
    if len(runs) > 1:
        say(f"{path}: holds traces of {len(runs)} runs; the last began at {min(last)[0]}")
    return [each for _, each in last]


def _read(trace: Path, say: Say) -> RunReport:
    with Reader(trace) as reader:
        problems, meta = reader.problems(), reader.meta
        scripts = meta.get("sources") or {}
        imported = _imported(meta.get("modules") or {})
        spoken_of = {each.span.filename for each in problems}
        settings = _settings((*scripts, *imported, *spoken_of), say)
        excluded = Exclusion(settings).covers
        used = {name: text for name, text in imported.items() if not excluded(Path(name))}
        checked = {**used, **scripts}
        static = audit.check_texts(checked, asked=settings)
        sources = _sources(spoken_of, checked)
        found = join(_seen(problems, settings), (e for e in static if e.name != UNUSED))
        return summarise(reader, _unsilenced(found, sources), sources)


def _settings(filenames: Iterable[str], say: Say) -> Configuration:
    """The settings of the project that these files are of; broken ones are told, and not heeded."""
    found = Configuration()
    try:
        for filename in filenames:
            found.rules(filename)
    except MpauditError as problem:
        say(f"warning: the settings are not heeded: {problem}")
        return Configuration.of_rules()
    return found


def _seen(problems: Iterable[Problem], settings: Configuration) -> Iterator[Finding]:
    """What a run has shown, less what is ignored; rules need not be selected for what really was."""
    for each in problems:
        if not settings.rules(each.span.filename).switched_off(rule(each.rule)):
            yield settings.of(Path(each.span.filename)).stamped(stamp(each))


def _imported(modules: Mapping[str, str]) -> dict[str, str]:
    """The texts of imported files that are still what they were, by their digests then, and that
    any rule looks at."""
    found: dict[str, str] = {}
    for filename, known in modules.items():
        try:
            content = Path(filename).read_bytes()
            if digest(content) == known and concerns(content):
                found[filename], _ = decode(content, filename)
        except (OSError, UnparsableError):  # the trace was made elsewhere, say
            continue
    return found


def _sources(filenames: Iterable[str], kept: dict[str, str]) -> dict[str, str]:
    """The texts of the files, as far as they can be read."""
    sources = dict(kept)
    for filename in sorted(set(filenames) - kept.keys()):
        try:
            sources[filename], _ = decode(Path(filename).read_bytes(), filename)
        except (OSError, ValueError, UnparsableError):  # ValueError: no file can have such a name
            continue
    return sources


def _unsilenced(findings: Iterable[Finding], sources: dict[str, str]) -> list[Finding]:
    silenced = {name: suppress.read(text, name) for name, text in sources.items()}
    return [
        each
        for each in findings
        if each.span.filename not in silenced or not silenced[each.span.filename].covers(each)
    ]

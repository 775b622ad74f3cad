"""Two witnesses, one verdict: what a trace recorded and what the source of its script shows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mpaudit import audit, suppress
from mpaudit.config import Selection, of_script
from mpaudit.finding import Finding
from mpaudit.rule import rule
from mpaudit.runtime.summary import RunReport, join, stamp, summarise
from mpaudit.runtime.trace import Reader
from mpaudit.source.module import UnparsableError, decode


def read(trace: Path) -> RunReport:
    """The report of a trace. Raises MpauditError for a file that is no trace.

    The source is the text that ran: the trace keeps it for the script; other files are read from
    disk. Findings that the code's author silenced are left out, whoever saw them.
    """
    with Reader(trace) as reader:
        problems, meta = reader.problems(), reader.meta
        sources = _sources({each.span.filename for each in problems}, meta.get("sources") or {})
        static: list[Finding] = []
        for filename in meta.get("sources") or {}:
            static += audit.check_text(sources[filename], filename, of_script())
        selection = Selection()
        seen = [stamp(each) for each in problems if selection.includes(rule(each.rule))]
        found = _unsilenced(join(seen, static), sources)
        return summarise(reader, found, sources)


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

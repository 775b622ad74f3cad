"""What a finding is known by from one run to the next, and where its file is in the repository."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from pathlib import Path, PurePath

from mpaudit.report import Report, line


def root() -> Path:
    """The folder that paths are relative to: that of the repository around this one, else this one."""
    here = Path.cwd()
    return next((each for each in (here, *here.parents) if (each / ".git").exists()), here)


def relative(filename: str, folder: Path) -> PurePath | None:
    """`filename` below `folder`, None if it is elsewhere."""
    try:
        return Path(filename).absolute().relative_to(folder)
    except ValueError:
        return None


def fingerprints(report: Report) -> list[str]:
    """A name for each finding of a report, in order, that lines put in above do not change.

    It is made of rule, file and the text of the line; equal ones are numbered.
    """
    folder = root()
    seen: Counter[str] = Counter()
    names = []
    for each in report.findings:
        path = relative(each.span.filename, folder)
        text = line(report.text(each.span) or "", each.span.start.row)
        where = path.as_posix() if path is not None else each.span.filename
        words = "\0".join((each.name, where, " ".join(text.split())))
        digest = sha256(words.encode(errors="backslashreplace")).hexdigest()[:32]
        seen[digest] += 1
        names.append(f"{digest}:{seen[digest]}")
    return names

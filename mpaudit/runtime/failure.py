"""A script that died: its traceback as Python shows it, and the rule behind the exception."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from mpaudit.finding import Finding
from mpaudit.rule import Rule, catalogue
from mpaudit.runtime.frame import is_users

_OWN = str(Path(__file__).parent)
_EXTRAS = {"torch": "torch", "tensorflow": "tensorflow", "keras": "tensorflow"}


def show(error: BaseException, *, corrected: bool) -> None:
    """Print the traceback of the user's script as Python would: nothing of mpaudit is in it.

    `corrected` says that the text that ran is not the file's, so Python's own display, which reads
    the file, would show the wrong lines.
    """
    _clean(error, set())
    if corrected and sys.excepthook is sys.__excepthook__:
        traceback.print_exception(type(error), error, error.__traceback__)
    else:
        sys.excepthook(type(error), error, error.__traceback__)


def lacks_framework(error: BaseException | None) -> bool:
    """Whether the script ended because torch, TensorFlow or Keras is not installed."""
    return isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS


def explain(
    error: BaseException, static: Callable[[], Sequence[Finding]] | None = None
) -> list[str]:
    """Lines that say which rule is behind an exception, or which extra is missing; often none."""
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        extra = _EXTRAS[error.name]
        return [f"mpaudit: {error.name} is not installed here: pip install 'mpaudit[{extra}]'"]
    rule = behind(str(error))
    if rule is None:
        return []
    where = _place(error)
    lines = [f"mpaudit: {rule.code} {rule.name} explains this: {rule.summary}"]
    findings = [each for each in static() if each.name == rule.name] if static is not None else []
    for finding in findings:
        place = f"{_short(finding.span.filename)}:{finding.span.start.row}"
        lines.append(f"  {place}: {finding.message}")
        if finding.fix is not None:
            lines.append(f"  fix: {finding.fix.message} (mpaudit run --fix does it)")
    if not findings and where is not None:
        lines.append(f"  raised at {where}")
    lines.append(f"  more: mpaudit explain {rule.code}, {rule.url}")
    return lines


def behind(message: str) -> Rule | None:
    """The rule whose page quotes the error text; the longest quotation wins."""
    found = [
        (len(quoted), rule)
        for rule in catalogue().values()
        for quoted in rule.messages
        if quoted in message
    ]
    return max(found, key=lambda each: each[0])[1] if found else None


def _place(error: BaseException) -> str | None:
    place = None
    for frame, row in traceback.walk_tb(error.__traceback__):
        if is_users(frame.f_code.co_filename):
            place = f"{_short(frame.f_code.co_filename)}:{row}"
    return place


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def _clean(error: BaseException | None, seen: set[int]) -> None:
    """Take mpaudit's frames out of the tracebacks of an exception and of those behind it."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    frames = []
    at = error.__traceback__
    while at is not None:
        if not at.tb_frame.f_code.co_filename.startswith(_OWN):
            frames.append(at)
        at = at.tb_next
    chain: TracebackType | None = None
    for kept in reversed(frames):
        chain = TracebackType(chain, kept.tb_frame, kept.tb_lasti, kept.tb_lineno)
    error.__traceback__ = chain
    _clean(error.__cause__, seen)
    _clean(error.__context__, seen)

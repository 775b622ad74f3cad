"""A script that died: its traceback as Python shows it, and the rule behind the exception."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from msgspec import Struct

from mpaudit.finding import Finding
from mpaudit.rule import Rule, catalogue
from mpaudit.rule import rule as page
from mpaudit.runtime.frame import is_users
from mpaudit.runtime.keras.refused import refusal

_OWN = str(Path(__file__).parent)
_EXTRAS = {"torch": "torch", "tensorflow": "tensorflow", "keras": "tensorflow"}


class Cause(Struct, frozen=True):
    """What is behind an exception: a rule, if there is one, and what is known of this very case.

    `told` are lines that say so; where there are none, the rule explains the exception by itself.
    """

    rule: Rule | None = None
    told: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """All of it, for a report."""
        if (rule := self.rule) is None:
            return list(self.told)
        if self.told:
            return [*self.told, f"  more: mpaudit explain {rule.code}"]
        return [f"{rule.code} {rule.name} explains this: {rule.summary}"]


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
    cause = cause_of(error)
    lines = [f"mpaudit: {cause.told[0]}", *cause.told[1:]] if cause.told else []
    if (rule := cause.rule) is None:
        return lines
    if not cause.told:
        lines.append(f"mpaudit: {rule.code} {rule.name} explains this: {rule.summary}")
    where = _place(error)
    findings = [each for each in static() if each.name == rule.name] if static is not None else []
    for finding in findings:
        place = f"{_short(finding.span.filename)}:{finding.span.start.row}"
        if cause.told and place != where:
            continue  # the exception is of another line
        lines.append(f"  {place}: {finding.message}")
        if finding.fix is not None:
            lines.append(f"  fix: {finding.fix.message} (mpaudit run --fix does it)")
    if not findings and not cause.told and where is not None:
        lines.append(f"  raised at {where}")
    lines.append(f"  more: mpaudit explain {rule.code}, {rule.url}")
    return lines


def cause_of(error: BaseException) -> Cause:
    """What is behind an exception, as far as it is known."""
    try:
        refused = refusal(error)
    except (
        Exception
    ):  # of what a foreign exception holds: the user sees his own error, not one of ours
        refused = None
    if refused is not None:
        return Cause(None if refused.rule is None else page(refused.rule), tuple(refused.lines()))
    return Cause(behind(str(error)))


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

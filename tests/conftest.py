"""What the tests say at their end: how many fixes were proven, and in which way."""

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count what the tests noted as `proven`, in whichever process they ran."""
    reports = (each for group in terminalreporter.stats.values() for each in group)
    notes = Counter(
        value
        for report in reports
        for name, value in (getattr(report, "user_properties", None) or ())
        if name == "proven" and report.when == "call"
    )
    if notes:
        terminalreporter.section("fixes proven by a run")
    for note, count in sorted(notes.items()):
        terminalreporter.write_line(f"{count:5} {note}")

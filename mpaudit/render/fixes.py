"""What was repaired."""

from __future__ import annotations

from mpaudit.report import Report, count


def alone(report: Report, *, listed: bool) -> str:
    """How much was repaired, and nothing of what is left; empty if nothing was."""
    hidden = count(report.hidden(), "additional fix")
    more = f" ({hidden} available with `--unsafe-fixes`)" if report.hidden() else ""
    if not report.repaired:
        return f"No errors fixed{more}.\n" if more else ""
    lines = report.repairs() if listed else ()
    return "\n".join((*lines, f"Fixed {count(report.repaired, 'error')}{more}.")) + "\n"

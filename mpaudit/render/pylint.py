"""One line per finding in the form that readers of pylint's output know."""

from __future__ import annotations

from mpaudit.report import Report, shown


def render(report: Report) -> str:
    """`path:row: [code] message`, as ruff writes it; in a notebook the cell stands before the row."""
    lines = []
    for each in report.findings:
        cell = "" if each.span.cell is None else f"cell {each.span.cell}:"
        where = f"{shown(each.span.filename)}:{cell}{each.span.start.row}"
        lines.append(f"{where}: [{each.code}] {each.name}: {' '.join(each.message.split())}\n")
    return "".join(lines)

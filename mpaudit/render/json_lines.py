"""One JSON object per line and finding, for programs that read as they go."""

from __future__ import annotations

import json

from mpaudit.render.json import item
from mpaudit.report import Report


def render(report: Report) -> str:
    """The objects of the JSON output, each on a line of its own; nothing if nothing was found."""
    return "".join(f"{json.dumps(item(each, report))}\n" for each in report.findings)

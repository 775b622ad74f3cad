"""mpaudit's rules for those who run flake8: `MP` codes among its own.

flake8 says which files are checked, and silences by `# noqa`; the settings of mpaudit (rules, severity,
targets) are those of its own configuration files.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import lru_cache

from mpaudit import __version__
from mpaudit.settings import Configuration
from mpaudit.source.text.discovery import concerns, silences


class Checker:
    """What flake8 makes of each file: it hands over the tree, the name and the lines it has read."""

    name = "mpaudit"
    version = __version__

    def __init__(self, tree: ast.AST, filename: str, lines: Sequence[str]) -> None:
        del tree  # flake8 hands it over to every plugin of this kind
        self.filename = filename
        self.text = "".join(lines)

    def run(self) -> Iterator[tuple[int, int, str, type[Checker]]]:
        """Row (from 1), column (from 0), text and this class, for each finding in the file."""
        data = self.text.encode("utf-8", "replace")
        if not concerns(data) and not silences(data):
            return
        from mpaudit.inspection import check_document
        from mpaudit.source.text.document import from_text

        document = from_text(self.text, self.filename)
        for finding in check_document(document, _configuration(), None, alone=False).findings:
            if finding.span.filename == self.filename:
                start = finding.span.start
                said = f"{finding.code} {finding.name}: {finding.message}"
                yield start.row, start.column - 1, said, type(self)


@lru_cache(maxsize=1)
def _configuration() -> Configuration:
    return Configuration()

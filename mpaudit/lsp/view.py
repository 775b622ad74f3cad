"""A report as an editor sees it: diagnostics, repairs, and what a rule says; places in its own units."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from lsprotocol import types
from msgspec import Struct
from pygls.workspace import PositionCodec

from mpaudit import suppress
from mpaudit.finding import Finding, Position, Span
from mpaudit.fix import Edit, Safety, chosen
from mpaudit.report import Report
from mpaudit.rule import Severity, rule
from mpaudit.source.text.document import Document

_NEWLINE = re.compile(r"\r\n|\r|\n")
_SEVERITIES = {
    Severity.ERROR: types.DiagnosticSeverity.Error,
    Severity.WARNING: types.DiagnosticSeverity.Warning,
    Severity.ADVICE: types.DiagnosticSeverity.Information,
}
_HOW = {Safety.SAFE: "", Safety.UNSAFE: " (unsafe)", Safety.SUGGESTION: " (a suggestion)"}


class View(Struct, frozen=True):
    """What was found in one file that is open, a script or a notebook.

    `uris` are those of its texts: of a notebook by the number of the cell, of a script by None.
    `document` is the file as it was checked; None if nothing in it concerns any rule.
    """

    report: Report
    filename: str
    uris: Mapping[int | None, str]
    codec: PositionCodec
    document: Document | None = None

    def diagnostics(self) -> dict[str, list[types.Diagnostic]]:
        """Every text of the file with what is wrong in it."""
        found: dict[str, list[types.Diagnostic]] = {uri: [] for uri in self.uris.values()}
        for finding in self._findings():
            found[self.uris[finding.span.cell]].append(self._diagnostic(finding))
        return found

    def actions(self, uri: str, wanted: types.Range) -> Iterator[types.CodeAction]:
        """The repairs of what is found in a stretch of a text, and of all that is safe to repair."""
        for finding in self._findings():
            at = self._range(finding.span)
            if self.uris[finding.span.cell] != uri or not _meet(at, wanted):
                continue
            shown = [self._diagnostic(finding)]
            if finding.fix is not None:
                yield types.CodeAction(
                    f"mpaudit: {finding.fix.message}{_HOW[finding.fix.safety]}",
                    kind=types.CodeActionKind.QuickFix,
                    diagnostics=shown,
                    is_preferred=finding.fix.safety is Safety.SAFE,
                    edit=self._edit(finding.fix.edits),
                )
            if self.document is not None and not self.document.cells:
                text, code = self.document.text, self.document.code
                yield types.CodeAction(
                    f"mpaudit: silence {finding.code} {finding.name} here",
                    kind=types.CodeActionKind.QuickFix,
                    diagnostics=shown,
                    edit=self._edit(list(suppress.added(text, code, [finding], ""))),
                )
        edits, applied = chosen(
            each.fix
            for each in self._findings()
            if each.fix is not None and each.fix.safety is Safety.SAFE
        )
        if applied:
            yield types.CodeAction(
                "mpaudit: apply all safe fixes",
                kind=types.CodeActionKind.SourceFixAll,
                edit=self._edit(edits),
            )

    def hover(self, uri: str, at: types.Position) -> types.Hover | None:
        """What the rule says that was broken at a place."""
        for finding in self._findings():
            stretch = self._range(finding.span)
            if self.uris[finding.span.cell] == uri and _meet(stretch, types.Range(at, at)):
                page = rule(finding.name)
                text = f"**{page.code} {page.name}**: {page.summary}\n\n{page.prose}"
                markup = types.MarkupContent(types.MarkupKind.Markdown, text)
                return types.Hover(markup, stretch)
        return None

    def _findings(self) -> Iterator[Finding]:
        for finding in self.report.findings:
            if finding.span.filename == self.filename and finding.span.cell in self.uris:
                yield finding

    def _diagnostic(self, finding: Finding) -> types.Diagnostic:
        said = f"{finding.name}: {finding.message}"
        if finding.consequence:
            said += f"\n{finding.consequence}"
        related = [
            types.DiagnosticRelatedInformation(
                types.Location(self.uris[each.span.cell], self._range(each.span)), each.message
            )
            for each in finding.related
            if each.span.filename == self.filename and each.span.cell in self.uris
        ]
        url = rule(finding.name).url
        return types.Diagnostic(
            self._range(finding.span),
            said,
            severity=_SEVERITIES[finding.severity],
            code=finding.code,
            code_description=types.CodeDescription(url) if url else None,
            source="mpaudit",
            related_information=related,
        )

    def _edit(self, edits: Sequence[Edit]) -> types.WorkspaceEdit:
        changes: dict[str, list[types.TextEdit]] = {}
        for edit in edits:
            start = self.report.place(self.filename, edit.start)
            end = self.report.place(self.filename, edit.end)
            if start is not None and end is not None:
                span = Span(self.filename, start[1], end[1], start[0])
                change = types.TextEdit(self._range(span), edit.content)
                changes.setdefault(self.uris[start[0]], []).append(change)
        return types.WorkspaceEdit(changes)

    def _range(self, span: Span) -> types.Range:
        lines = _NEWLINE.split(self.report.text(span) or "")
        stretch = types.Range(_position(span.start), _position(span.end))
        return self.codec.range_to_client_units(lines, stretch)


def _position(at: Position) -> types.Position:
    return types.Position(at.row - 1, at.column - 1)


def _meet(one: types.Range, other: types.Range) -> bool:
    return one.start <= other.end and other.start <= one.end

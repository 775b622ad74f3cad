"""The server: what it is told of open files, and what it answers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from lsprotocol import types
from pygls.lsp.server import LanguageServer

from mpaudit import __version__
from mpaudit.errors import MpauditError
from mpaudit.inspection import check_document, unread
from mpaudit.lsp.view import View
from mpaudit.report import Report
from mpaudit.settings import Configuration
from mpaudit.settings.exclusion import Exclusion
from mpaudit.source.text.discovery import concerns, silences
from mpaudit.source.text.document import Document, from_text
from mpaudit.source.text.parsing import UnparsableError

PAUSE = 0.2
"""Seconds without a keystroke after which a text is checked."""
_CELLS = types.NotebookDocumentSyncOptions(
    [
        types.NotebookDocumentFilterWithCells(
            cells=[types.NotebookCellLanguage("python")], notebook="jupyter-notebook"
        )
    ],
    save=True,
)


class Server(LanguageServer):
    """Keeps a view of every open file, by its URI, or by that of the notebook."""

    def __init__(self) -> None:
        super().__init__("mpaudit", __version__, notebook_document_sync=_CELLS)
        self.views: dict[str, View] = {}
        self.versions: dict[str, int | None] = {}
        self.complaint = ""

    def check(self, uri: str) -> None:
        """Check an open file, and show what is found; `uri` is its own, or that of a notebook."""
        try:
            notebook = self.workspace.get_notebook_document(notebook_uri=uri)
            view = self._of_script(uri) if notebook is None else self._of_notebook(uri, notebook)
        except MpauditError as problem:  # a configuration that is broken is said once
            if str(problem) != self.complaint:
                self.complaint = str(problem)
                shown = types.ShowMessageParams(types.MessageType.Error, f"mpaudit: {problem}")
                self.window_show_message(shown)
            return
        self.complaint = ""
        self.views[uri] = view
        self.versions[uri] = self.revision(uri)
        for text, found in view.diagnostics().items():
            self._publish(text, found)

    def forget(self, uri: str) -> None:
        """Take away what was shown of a file that is closed."""
        view = self.views.pop(uri, None)
        for text in view.uris.values() if view is not None else ():
            self._publish(text, [])

    def view_of(self, uri: str) -> View | None:
        """The view of an open text, as it is now: of a script, or of the notebook that a cell is of."""
        notebook = self.workspace.get_notebook_document(cell_uri=uri)
        owner = uri if notebook is None else notebook.uri
        if self.versions.get(owner) != self.revision(owner):
            self.check(owner)
        return self.views.get(owner)

    def revision(self, uri: str) -> int | None:
        """The version of an open file."""
        notebook = self.workspace.get_notebook_document(notebook_uri=uri)
        return (notebook or self.workspace.get_text_document(uri)).version

    def _of_script(self, uri: str) -> View:
        document = self.workspace.get_text_document(uri)
        filename = document.path or "untitled.py"
        report, read = _checked(document.source, filename)
        return View(report, filename, {None: uri}, self.workspace.position_codec, read)

    def _of_notebook(self, uri: str, notebook: types.NotebookDocument) -> View:
        cells: list[dict[str, Any]] = []
        uris: dict[int | None, str] = {}
        for number, cell in enumerate(notebook.cells, 1):
            is_code = cell.kind == types.NotebookCellKind.Code
            if is_code:
                uris[number] = cell.document
            text = self.workspace.get_text_document(cell.document).source if is_code else ""
            cells.append({"cell_type": "code" if is_code else "markdown", "source": text})
        whole = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        filename = self.workspace.get_text_document(uri).path or "untitled.ipynb"
        report, read = _checked(json.dumps(whole), filename)
        return View(report, filename, uris, self.workspace.position_codec, read)

    def _publish(self, uri: str, found: list[types.Diagnostic]) -> None:
        self.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, found))


def _checked(text: str, filename: str) -> tuple[Report, Document | None]:
    data = text.encode("utf-8", "replace")
    configuration = Configuration()
    if Exclusion(configuration).covers(Path(filename)):
        return Report(()), None
    if not concerns(data) and not silences(data):
        return Report(()), None
    try:
        document = from_text(text, filename)
    except UnparsableError as problem:
        return Report((unread(problem),), {filename: text}), None
    return check_document(document, configuration, None, alone=False), document


def made() -> Server:
    """A server that knows what to do, and has not started."""
    server = Server()

    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    def opened(ls: Server, params: types.DidOpenTextDocumentParams) -> None:
        ls.check(params.text_document.uri)

    @server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    async def changed(ls: Server, params: types.DidChangeTextDocumentParams) -> None:
        uri, version = params.text_document.uri, params.text_document.version
        await asyncio.sleep(PAUSE)
        if ls.revision(uri) == version:
            ls.check(uri)

    @server.feature(types.TEXT_DOCUMENT_DID_SAVE)
    @server.feature(types.NOTEBOOK_DOCUMENT_DID_SAVE)
    def saved(ls: Server, params: object) -> None:
        del params  # what others import may have changed
        for uri in list(ls.views):
            ls.check(uri)

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def closed(ls: Server, params: types.DidCloseTextDocumentParams) -> None:
        ls.forget(params.text_document.uri)

    @server.feature(types.NOTEBOOK_DOCUMENT_DID_OPEN)
    def opened_notebook(ls: Server, params: types.DidOpenNotebookDocumentParams) -> None:
        ls.check(params.notebook_document.uri)

    @server.feature(types.NOTEBOOK_DOCUMENT_DID_CHANGE)
    async def changed_notebook(ls: Server, params: types.DidChangeNotebookDocumentParams) -> None:
        uri, version = params.notebook_document.uri, params.notebook_document.version
        await asyncio.sleep(PAUSE)
        if ls.revision(uri) == version:
            ls.check(uri)

    @server.feature(types.NOTEBOOK_DOCUMENT_DID_CLOSE)
    def closed_notebook(ls: Server, params: types.DidCloseNotebookDocumentParams) -> None:
        ls.forget(params.notebook_document.uri)

    kinds = [types.CodeActionKind.QuickFix, types.CodeActionKind.SourceFixAll]

    @server.feature(types.TEXT_DOCUMENT_CODE_ACTION, types.CodeActionOptions(kinds))
    def actions(ls: Server, params: types.CodeActionParams) -> list[types.CodeAction]:
        uri, only = params.text_document.uri, params.context.only
        view = ls.view_of(uri)  # of the text as it is, however short ago it was typed
        found = list(view.actions(uri, params.range)) if view is not None else []
        if only is None:
            return found
        return [each for each in found if any(_falls_under(each.kind, kind) for kind in only)]

    @server.feature(types.TEXT_DOCUMENT_HOVER)
    def hover(ls: Server, params: types.HoverParams) -> types.Hover | None:
        view = ls.view_of(params.text_document.uri)
        return view.hover(params.text_document.uri, params.position) if view is not None else None

    return server


def _falls_under(kind: object, wanted: object) -> bool:
    """Whether a kind of action is the wanted one, or below it ("source.fixAll" below "source")."""
    own, other = (str(getattr(each, "value", each)) for each in (kind, wanted))
    return own == other or own.startswith(f"{other}.")

"""The language server, driven over its pipes by the client of pygls, as an editor would."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from test_cli import BAD, REPAIRED

pytest.importorskip("pygls", reason="in the extra `server`")

from lsprotocol import types
from pygls.lsp.client import LanguageClient

HOUSE = Path(__file__).parents[1]
WAIT = 30


class Editor(LanguageClient):
    """An editor that remembers what it was told, and applies what it is offered."""

    def __init__(self) -> None:
        super().__init__("editor", "1")
        self.told: asyncio.Queue[types.PublishDiagnosticsParams] = asyncio.Queue()
        self.shown: list[str] = []

        @self.feature(types.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
        def told(params: types.PublishDiagnosticsParams) -> None:
            self.told.put_nowait(params)

        @self.feature(types.WINDOW_SHOW_MESSAGE)
        def show(params: types.ShowMessageParams) -> None:
            self.shown.append(params.message)

    async def hear(self, uri: str) -> list[types.Diagnostic]:
        """The next diagnostics for a text."""
        while True:
            params = await asyncio.wait_for(self.told.get(), WAIT)
            if params.uri == uri:
                return list(params.diagnostics)

    def open(self, uri: str, text: str) -> None:
        item = types.TextDocumentItem(uri, "python", 1, text)
        self.text_document_did_open(types.DidOpenTextDocumentParams(item))

    def change(self, uri: str, version: int, text: str) -> None:
        which = types.VersionedTextDocumentIdentifier(version, uri)
        whole = types.TextDocumentContentChangeWholeDocument(text)
        self.text_document_did_change(types.DidChangeTextDocumentParams(which, [whole]))

    async def actions(self, uri: str, at: types.Range, **context: Any) -> list[types.CodeAction]:
        which = types.TextDocumentIdentifier(uri)
        asked = types.CodeActionParams(which, at, types.CodeActionContext([], **context))
        return list(await self.text_document_code_action_async(asked) or [])


def applied(text: str, edits: list[types.TextEdit]) -> str:
    """A text with edits, whose columns count UTF-16 units."""
    lines = text.split("\n")
    for edit in sorted(edits, key=lambda e: (e.range.start.line, e.range.start.character))[::-1]:
        start, end = edit.range.start, edit.range.end
        head, tail = (
            lines[at.line].encode("utf-16-le")[part].decode("utf-16-le")
            for at, part in (
                (start, slice(None, start.character * 2)),
                (end, slice(end.character * 2, None)),
            )
        )
        lines[start.line : end.line + 1] = (head + edit.new_text + tail).split("\n")
    return "\n".join(lines)


def drive(scene: Callable[[Editor], Awaitable[None]], root: Path) -> Editor:
    """Start a server, let an editor do its work with it, and stop it."""
    editor = Editor()

    async def play() -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(HOUSE),
            "XDG_CONFIG_HOME": str(root / "none"),
        }
        command = (sys.executable, "-m", "mpaudit", "server")
        await editor.start_io(*command, env=environment, cwd=str(root))
        about = types.InitializeParams(types.ClientCapabilities(), root_uri=root.as_uri())
        reply = await asyncio.wait_for(editor.initialize_async(about), WAIT)
        assert reply.server_info is not None
        assert reply.server_info.name == "mpaudit"
        editor.initialized(types.InitializedParams())
        await scene(editor)
        await asyncio.wait_for(editor.shutdown_async(None), WAIT)
        editor.exit(None)
        await editor.stop()

    asyncio.run(play())
    return editor


def test_typing(tmp_path: Path) -> None:
    """Diagnostics come and go with what is typed; the text on disk does not count."""
    path = tmp_path / "train.py"
    path.write_text(REPAIRED)
    uri = path.as_uri()

    async def scene(editor: Editor) -> None:
        editor.open(uri, BAD)
        (found,) = await editor.hear(uri)
        assert (found.code, found.source) == ("MP104", "mpaudit")
        assert found.severity == types.DiagnosticSeverity.Error
        assert (found.range.start.line, found.range.start.character) == (10, 4)
        assert found.message.startswith("missing-scaler-update: ")
        assert found.code_description is not None
        assert found.code_description.href.endswith("/missing-scaler-update/")
        editor.change(uri, 2, BAD + "    scaler.upda")
        editor.change(uri, 3, REPAIRED)
        assert await editor.hear(uri) == []
        editor.change(uri, 4, REPAIRED + "x = (\n")
        (found,) = await editor.hear(uri)
        assert found.code == "MP001"
        editor.text_document_did_close(
            types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(uri))
        )
        assert await editor.hear(uri) == []

    drive(scene, tmp_path)


def test_repairs(tmp_path: Path) -> None:
    uri = (tmp_path / "train.py").as_uri()
    text, mended = BAD, REPAIRED

    async def scene(editor: Editor) -> None:
        editor.open(uri, text)
        (found,) = await editor.hear(uri)
        fix, silence, every = await editor.actions(uri, found.range)
        assert fix.title.startswith("mpaudit: ")
        assert (fix.is_preferred, fix.kind) == (True, types.CodeActionKind.QuickFix)
        assert applied(text, list(fix.edit.changes[uri])) == mended
        assert applied(text, list(every.edit.changes[uri])) == mended
        silenced = applied(text, list(silence.edit.changes[uri]))
        assert "# mpaudit: ignore[missing-scaler-update]" in silenced
        nowhere = types.Range(types.Position(0, 0), types.Position(0, 0))
        assert [each.title for each in await editor.actions(uri, nowhere)] == [every.title]
        only = await editor.actions(uri, nowhere, only=[types.CodeActionKind.SourceFixAll])
        assert [each.title for each in only] == [every.title]
        editor.change(uri, 2, silenced)
        assert await editor.hear(uri) == []
        editor.change(uri, 3, mended)
        assert await editor.hear(uri) == []

    drive(scene, tmp_path)


def test_columns_count_units_of_utf_16(tmp_path: Path) -> None:
    uri = (tmp_path / "train.py").as_uri()
    old = "import torch\n\nprint('\N{GRINNING FACE}', torch.cuda.amp.GradScaler())\n"
    new = old.replace("torch.cuda.amp.GradScaler()", 'torch.amp.GradScaler("cuda")')

    async def scene(editor: Editor) -> None:
        editor.open(uri, old)
        (found,) = await editor.hear(uri)
        assert (found.code, found.range.start.character) == ("MP701", len("print('12', "))
        fix, *_ = await editor.actions(uri, found.range)
        assert applied(old, list(fix.edit.changes[uri])).replace("'cuda'", '"cuda"') == new

    drive(scene, tmp_path)


def test_the_page_of_a_rule(tmp_path: Path) -> None:
    uri = (tmp_path / "train.py").as_uri()

    async def scene(editor: Editor) -> None:
        editor.open(uri, BAD)
        await editor.hear(uri)
        which = types.TextDocumentIdentifier(uri)
        hover = await editor.text_document_hover_async(
            types.HoverParams(which, types.Position(10, 8))
        )
        assert isinstance(hover.contents, types.MarkupContent)
        assert hover.contents.value.startswith("**MP104 missing-scaler-update**: ")
        assert "How to tell" in hover.contents.value
        asked = types.HoverParams(which, types.Position(0, 0))
        assert await editor.text_document_hover_async(asked) is None

    drive(scene, tmp_path)


def test_other_files_and_the_configuration(tmp_path: Path) -> None:
    helper = "def finish(scaler):\n    scaler.update()\n"
    text = BAD.replace("import torch\n", "import torch\nfrom helper import finish\n", 1)
    text += "    finish(scaler)\n"
    (tmp_path / "helper.py").write_text(helper)
    main, other = ((tmp_path / name).as_uri() for name in ("main.py", "other.py"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/mpaudit.toml").write_text('exclude = ["old.py"]\nignore = ["MP104"]\n')
    ignored, excluded = ((tmp_path / "sub" / name).as_uri() for name in ("a.py", "old.py"))

    async def scene(editor: Editor) -> None:
        editor.open(main, text)
        assert await editor.hear(main) == []
        (tmp_path / "helper.py").write_text(helper.replace("scaler.update()", "pass"))
        editor.text_document_did_save(
            types.DidSaveTextDocumentParams(types.TextDocumentIdentifier(main))
        )
        (found,) = await editor.hear(main)
        assert found.code == "MP104"
        editor.open(ignored, BAD)
        assert await editor.hear(ignored) == []
        editor.open(excluded, BAD.replace("torch.autocast(", "torch.cuda.amp.autocast("))
        assert await editor.hear(excluded) == []
        (tmp_path / "mpaudit.toml").write_text("selct = 1\n")
        editor.open(other, BAD)
        while not editor.shown:
            await asyncio.sleep(0.05)
        (tmp_path / "mpaudit.toml").unlink()
        editor.change(other, 2, BAD + "\n")
        (found,) = await editor.hear(other)
        assert found.code == "MP104"

    editor = drive(scene, tmp_path)
    assert [each.split(": ", 2)[2] for each in editor.shown] == [
        "there is no key 'selct'; did you mean 'select'?"
    ]


def test_notebooks(tmp_path: Path) -> None:
    """Places and repairs are those of the cells, each a text of its own."""
    notebook = (tmp_path / "train.ipynb").as_uri()
    head, loop = BAD.split("for inputs", 1)
    texts = ["# Training\n", "%matplotlib inline\n" + head, "for inputs" + loop.rstrip("\n")]
    cells = [f"vscode-notebook-cell:/train.ipynb#c{number}" for number in range(3)]
    kinds = [types.NotebookCellKind.Markup, *[types.NotebookCellKind.Code] * 2]
    listed = [types.NotebookCell(k, uri) for k, uri in zip(kinds, cells, strict=True)]
    whole = types.NotebookDocument(notebook, "jupyter-notebook", 1, listed)
    items = [types.TextDocumentItem(u, "python", 1, t) for u, t in zip(cells, texts, strict=True)]

    async def scene(editor: Editor) -> None:
        editor.notebook_document_did_open(types.DidOpenNotebookDocumentParams(whole, items))
        assert await editor.hear(cells[1]) == []
        (found,) = await editor.hear(cells[2])
        assert (found.code, found.range.start.line) == ("MP104", 5)
        fix, *_ = await editor.actions(cells[2], found.range)
        mended = applied(texts[2], list(fix.edit.changes[cells[2]]))
        assert mended == texts[2] + "\n    scaler.update()"
        change = types.NotebookDocumentCellContentChanges(
            types.VersionedTextDocumentIdentifier(2, cells[2]),
            [types.TextDocumentContentChangeWholeDocument(mended)],
        )
        editor.notebook_document_did_change(
            types.DidChangeNotebookDocumentParams(
                types.VersionedNotebookDocumentIdentifier(2, notebook),
                types.NotebookDocumentChangeEvent(
                    cells=types.NotebookDocumentCellChanges(text_content=[change])
                ),
            )
        )
        assert await editor.hear(cells[2]) == []

    drive(scene, tmp_path)

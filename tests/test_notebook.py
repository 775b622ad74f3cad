"""Notebooks: what is read of them, where findings are, and that a fix changes nothing else."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpaudit import audit
from mpaudit.cli import main
from mpaudit.finding import Finding
from mpaudit.fix import Edit
from mpaudit.rule import Rule, catalogue
from mpaudit.source.text import notebook
from mpaudit.source.text.notebook_json import UnreadableNotebookError, spliced

FIXTURES = Path(__file__).parents[1] / "fixtures"
NOTEBOOKS = sorted((FIXTURES / "notebooks").glob("*.ipynb"))
MARK = re.compile(r"# error: \[([a-z0-9-]+)\]$", re.MULTILINE)

SETUP = """\
import torch
model = torch.nn.Linear(4, 2).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cuda")"""
LOOP = """\
for x, y in loader:
    optimizer.zero_grad()
    with torch.autocast("cuda"):
        loss = torch.nn.functional.mse_loss(model(x), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)"""
UPDATE = "    scaler.update()"
OUTPUT = {"output_type": "stream", "name": "stdout", "text": ["é <b>\n", "\\n\u2028"]}

Dump = Callable[[object], str]
DUMPS: dict[str, Dump] = {
    "jupyter": lambda d: json.dumps(d, indent=1, ensure_ascii=False, sort_keys=True) + "\n",
    "four spaces": lambda d: json.dumps(d, indent=4, ensure_ascii=False) + "\n",
    "tabs, crlf": lambda d: json.dumps(d, indent="\t").replace("\n", "\r\n"),
    "one line": lambda d: json.dumps(d, separators=(",", ":")),
    "one line, spaces": json.dumps,
    "byte order mark": lambda d: "\ufeff" + json.dumps(d, indent=2, ensure_ascii=False) + "\n\n",
}


def code(source: str, *, one: bool = False, **more: object) -> dict[str, object]:
    """A code cell with an output, its source as lines or as one string."""
    text = source if one else source.splitlines(keepends=True)
    cell = {"cell_type": "code", "execution_count": 7, "metadata": {"collapsed": False}}
    return {**cell, "outputs": [OUTPUT], "source": text, **more}


def words(text: str) -> dict[str, object]:
    return {"cell_type": "markdown", "metadata": {}, "source": [text]}


def book(*cells: dict[str, object] | str, **more: object) -> dict[str, object]:
    made = [code(each) if isinstance(each, str) else each for each in cells]
    return {"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5, **more}


def found(data: object) -> list[Finding]:
    text = data if isinstance(data, str) else json.dumps(data)
    return audit.check_text(text, "train.ipynb")


def places(findings: Sequence[Finding]) -> list[tuple[str, int | None, int]]:
    return [(each.name, each.span.cell, each.span.start.row) for each in findings]


def call(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in args])


# --- fixtures


def marks(path: Path) -> list[tuple[str, int | None, int]]:
    marked = []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
        source = "".join(cell["source"])
        for mark in MARK.finditer(source):
            marked.append((mark[1], number, source.count("\n", 0, mark.start()) + 1))
    return sorted(marked)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_raise_exactly_their_marks(path: Path) -> None:
    assert sorted(places(audit.check([path]).findings)) == marks(path)
    assert bool(marks(path)) != path.name.startswith("clean_")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_fixed_notebooks_differ_in_marked_cells_only(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    report, changed = audit.fix([copy], unsafe=True, write=True)
    assert {each.name for each in report.findings} <= {"unparsable-source"}
    before, after = (json.loads(each.read_text(encoding="utf-8")) for each in (path, copy))
    numbers = set()
    for number, (old, new) in enumerate(zip(before["cells"], after["cells"], strict=True), 1):
        if old != new:
            numbers.add(number)
            assert {**old, "source": ""} == {**new, "source": ""}
            assert type(old["source"]) is type(new["source"])
    assert {f"{copy}:cell {number}" for number in numbers} == set(changed)
    assert {**before, "cells": []} == {**after, "cells": []}
    assert bool(numbers) == bool({rule for rule, _, _ in marks(path)} - {"unparsable-source"})
    if not numbers:
        assert copy.read_bytes() == path.read_bytes()


# --- a script in cells is the script


def in_cells(script: str) -> list[str]:
    """A script cut before every statement that begins a line of its own behind an empty line."""
    tree = ast.parse(script)
    rows = script.split("\n")
    starts = [each.lineno - 1 for each in tree.body if not rows[each.lineno - 2].strip()]
    cuts = [0, *sorted({row for row in starts if row}), len(rows)]
    return ["\n".join(rows[a:b]).rstrip("\n") for a, b in pairwise(cuts)]


SPLIT = [
    rule
    for rule in catalogue().values()
    if "source" in rule.seen_by and rule.name != "unparsable-source"
]


@pytest.mark.parametrize("rule", SPLIT, ids=lambda rule: rule.name)
def test_an_example_cut_into_cells_is_seen_and_repaired_as_a_script_is(rule: Rule) -> None:
    bad, good = rule.example("Bad") or "", rule.example("Good") or ""
    if not rule.default:
        pytest.skip("off by default")
    cells = in_cells(bad)
    data = json.dumps(book(*cells))
    assert found(book(*in_cells(good))) == []
    script = audit.check_text(bad, "train.py")
    texts = [bad.split("\n")[each.span.start.row - 1] for each in script]
    seen = found(data)
    assert [each.name for each in seen] == [each.name for each in script]
    for each, text in zip(seen, texts, strict=True):
        assert each.span.cell is not None
        assert cells[each.span.cell - 1].split("\n")[each.span.start.row - 1] == text
    fixed = json.loads(audit.fix_text(data, "train.ipynb", unsafe=True))
    assert len(fixed["cells"]) == len(cells)
    joined = "\n".join("".join(cell["source"]) for cell in fixed["cells"])
    expected = good if rule.fix in ("safe", "unsafe") else bad
    assert _rows(joined) == _rows(expected)


def _rows(text: str) -> list[str]:
    return [row for row in text.split("\n") if row.strip()]


# --- bytes


@pytest.mark.parametrize("one", [False, True], ids=["lines", "one string"])
@pytest.mark.parametrize("dump", DUMPS)
def test_a_fix_changes_the_source_of_one_cell_and_no_other_byte(
    tmp_path: Path, dump: str, one: bool
) -> None:
    def data(loop: str) -> bytes:
        cells = [words("# <Títle>"), code(SETUP), code("%%time\n" + loop, one=one), code("x = 'é'")]
        return DUMPS[dump](book(*cells, metadata={"b": 1.50, "a": [1e5]})).encode()

    path = tmp_path / "train.ipynb"
    path.write_bytes(data(LOOP))
    report, changed = audit.fix([path], unsafe=False, write=True)
    assert path.read_bytes() == data(f"{LOOP}\n{UPDATE}")
    assert not report.findings
    assert report.repaired == 1
    assert list(report.fixed) == [str(path)]
    assert list(changed) == [f"{path}:cell 3"]


STRANGE = r"""{"nbformat" :4, "cells": [ {"source":["import torch\u003b x = '\u00e9\/\ud83d\ude00'\n",
 "model = torch.nn.Linear(4, 2).cuda()\n\u0023 two\nlines in one\n", "",
   "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n" , "s",
   "caler = torch.amp.GradScaler('cuda')\n", ""],
 "cell_type":"code", "outputs":[{"text":"\u0041\/", "n":1.0E+2, "n":12345678901234567890123}] },
 {"cell_type":"code","source":[@SOURCE@] , "metadata":{}}],"metadata":{} , "nbformat_minor":0 }
   """


def test_escapes_numbers_and_white_space_stay_as_they_are_spelt() -> None:
    rows = LOOP.replace('"', "'").split("\n")
    rows[-2] = rows[-2].replace("scaler", "\\u0073caler")
    written = '"' + '\\n",   "'.join(rows) + '"'
    data = STRANGE.replace("@SOURCE@", written)
    expected = written[:-1] + '\\n",   "' + UPDATE + '"'
    assert audit.fix_text(data, "a.ipynb", unsafe=False) == STRANGE.replace("@SOURCE@", expected)


@pytest.mark.parametrize(
    ("before", "edits", "after"),
    [
        ('["a\\n", "b"]', [Edit(3, 3, "\nc")], '["a\\n", "b\\n", "c"]'),
        ('["b"]', [Edit(1, 1, "\nc")], '["b\\n", "c"]'),
        ('[\n  "b"\n ]', [Edit(0, 0, "a\n")], '[\n  "a\\n",\n  "b"\n ]'),
        ('["a\\n","b\\n","c"]', [Edit(2, 4, "")], '["a\\n","c"]'),
        ('["a\\n","b\\n","c"]', [Edit(3, 5, "")], '["a\\n","b"]'),
        ('["a\\n","b"]', [Edit(0, 3, "")], "[]"),
        ('["a\\n", "b\\n", ""]', [Edit(0, 1, "x")], '["x\\n", "b\\n", ""]'),
        ('["a\\nb\\n", "c"]', [Edit(4, 5, "d")], '["a\\nb\\n", "d"]'),
        ('"a\\nb"', [Edit(3, 3, '\n"\\é')], '"a\\nb\\n\\"\\\\é"'),
        ('["\\ud83d\\ude00x"]', [Edit(1, 2, "y")], '["\\ud83d\\ude00y"]'),
        ('["a\\r\\n","b"]', [Edit(4, 4, "\r\nc")], '["a\\r\\n","b\\r\\n","c"]'),
    ],
)
def test_splicing(before: str, edits: list[Edit], after: str) -> None:
    assert spliced(before, edits, ascii_only=False) == after


def test_ascii_files_stay_ascii() -> None:
    assert spliced('["a"]', [Edit(1, 1, "é")], ascii_only=True) == '["a\\u00e9"]'


def test_a_fix_in_several_cells_is_one_fix(tmp_path: Path) -> None:
    path = tmp_path / "k.ipynb"
    layers = "[keras.layers.Dense(8), keras.layers.Dense(4, dtype='float32')]"
    model = f"import keras\nmodel = keras.Sequential({layers})"
    policy = "keras.mixed_precision.set_global_policy('mixed_float16')"
    fit = "model.compile('adam', 'mse')\nmodel.fit(x, y)"
    path.write_text(json.dumps(book(model, f"print(1)\n{policy}", fit)))
    _, changed = audit.fix([path], unsafe=True, write=True)
    assert list(changed.values()) == [
        (model, model.replace("\n", f"\n{policy}\n")),
        (f"print(1)\n{policy}", "print(1)"),
    ]
    assert json.loads(path.read_text())["cells"][1]["source"] == ["print(1)"]


# --- what cannot be read


def test_a_half_written_cell_is_said_and_the_others_are_checked() -> None:
    findings = found(book(words("x"), SETUP, "y = (\n1\nz 3", "def f(:", LOOP, "print 'x'"))
    assert places(findings) == [
        ("unparsable-source", 3, 1),
        ("unparsable-source", 4, 1),
        ("missing-scaler-update", 5, 6),
        ("unparsable-source", 6, 1),
    ]
    assert findings[0].message.startswith("this cannot be read as Python: ")


@pytest.mark.parametrize(
    "pieces", [("if x:", "    y = 1"), ("try:\n    x = 1", "finally:\n    y = 1"), ("f(", ")")]
)
def test_a_statement_does_not_reach_into_the_next_cell(pieces: tuple[str, str]) -> None:
    names = [name for name, cell, _ in places(found(book(SETUP, *pieces))) if cell == 2]
    assert names == ["unparsable-source"]


@pytest.mark.parametrize("source", ["x = 'a\0b'", "\ud83d = autocast", "(" * 5000])
def test_a_cell_that_python_chokes_on_is_named(source: str) -> None:
    assert places(found(book("import torch\nx = 1", source))) == [("unparsable-source", 2, 1)]


BROKEN = {
    "cut off": ('{"cells": [{"cell_type": "code", "source": ["autocast', "its JSON is broken: "),
    "a comma too many": ('{"cells": [], "x": "autocast",}', "its JSON is broken: Illegal trailing"),
    "a comma too few": ('{"cells": [] "x": "autocast"}', "its JSON is broken: Expecting ',' delim"),
    "behind the end": ('{"cells": []} autocast', "its JSON is broken: Extra data"),
    "no object": ('["autocast"]', "its JSON is broken: Expecting an object"),
    "no JSON": ("import torch.autocast", "its JSON is broken: Expecting an object"),
    "no cells": ('{"autocast": 1}', "its JSON has no list of `cells`"),
    "cells that are no list": ('{"cells": "autocast"}', "its JSON has no list of `cells`"),
    "format 3": (
        '{"worksheets": [{"cells": [{"input": "autocast"}]}], "nbformat": 3}',
        "it has the old format 3 (`worksheets`), which is not read; `jupyter nbconvert",
    ),
    "a conflict": (
        '{"cells": [\n<<<<<<< HEAD\n"autocast"\n=======\n]}',
        "its JSON holds a merge conflict (`<<<<<<< HEAD`)",
    ),
    "a source that is none": (
        '{"x": "autocast", "cells": [{"cell_type": "code", "source": [1]}]}',
        "the source of a cell is neither text nor lines",
    ),
    "too deep": ('{"x": ' + "[" * 200_000 + '"autocast"', "its JSON is nested too deeply"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_notebook_nobody_can_read_is_a_finding(tmp_path: Path, case: str) -> None:
    path = tmp_path / "broken.ipynb"
    text, reason = BROKEN[case]
    path.write_text(text)
    for target in (path, tmp_path):
        result = call("check", "--output-format", "concise", target)
        assert result.exit_code == 1, result.output
        assert "error[MP001] unparsable-source" in result.stdout
        assert f": this cannot be read as a notebook: {reason}" in result.stdout
        assert "cell" not in result.stdout.partition(" error[")[0]
    assert call("check", "--fix", path).exit_code == 1
    assert path.read_text() == text


def test_the_place_in_a_broken_notebook_counts_characters_of_the_file() -> None:
    with pytest.raises(UnreadableNotebookError) as raised:
        notebook.read('{\n "é": 1,\n "é€" 3}'.encode(), "a.ipynb")
    assert (raised.value.span.start.row, raised.value.span.start.column) == (3, 7)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    cell = b'{"cells": [{"cell_type": "code", "source": "autocast \xff"}]}'
    path.write_bytes(cell)
    (finding,) = audit.check([path]).findings
    assert "not UTF-8" in finding.message
    path.write_bytes(cell.replace(b'"code"', b'"raw"'))
    assert not audit.check([path]).findings


# --- what is read


@pytest.mark.parametrize(
    "data",
    [
        book(),
        book(words("autocast")),
        book({"cell_type": "code", "source": []}, {"cell_type": "raw", "source": LOOP}),
        book("autocast <- 1", metadata={"kernelspec": {"language": "R"}}),
        book("autocast := 1 = 2", metadata={"language_info": {"name": "go"}}),
        book(code("SELECT autocast", metadata={"vscode": {"languageId": "sql"}})),
        book(code("let autocast = 1", metadata={"polyglot_notebook": {"kernelName": "fsharp"}})),
        book(code("from torch.cuda.amp import autocast"), nbformat=4) | {"cells": []},
    ],
)
def test_notebooks_without_python_are_clean(data: object) -> None:
    assert found(data) == []


def test_a_cell_that_an_editor_calls_text_is_still_python_if_it_reads_so() -> None:
    loop = code(LOOP, metadata={"vscode": {"languageId": "plaintext"}})
    assert places(found(book(SETUP, loop))) == [("missing-scaler-update", 2, 6)]


def test_without_our_words_no_json_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*args: object) -> None:
        raise AssertionError("the gate let it pass")

    monkeypatch.setattr(notebook, "sources", read)
    (tmp_path / "a.ipynb").write_text(json.dumps(book("import torch\nexample = lamp = 1")))
    assert not audit.check([tmp_path]).findings
    (tmp_path / "a.ipynb").write_text(json.dumps(book(code("import torch\namp = 1", one=True))))
    with pytest.raises(AssertionError, match="let it pass"):
        audit.check([tmp_path])


def test_a_folder_holds_notebooks_and_scripts(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / ".ipynb_checkpoints"):
        folder.mkdir(exist_ok=True)
        (folder / "train.ipynb").write_text(json.dumps(book(SETUP, LOOP)))
    assert places(audit.check([tmp_path]).findings) == [("missing-scaler-update", 2, 6)]
    assert audit.check([tmp_path]).checked == 1


def test_words_in_outputs_are_not_the_notebooks() -> None:
    assert found(book(code("def f(:", outputs=["autocast"]))) != []  # it was named


def test_a_broken_cell_where_only_outputs_concern_us_is_not_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(book(code("def f(:", outputs=["autocast is deprecated"]))))
    assert not audit.check([tmp_path]).findings
    assert places(audit.check([path]).findings) == [("unparsable-source", 1, 1)]


def test_a_notebook_that_calls_a_trainer_is_followed(tmp_path: Path) -> None:
    helper = "from torch.nn.utils import clip_grad_norm_\n\n\ndef clip(model):\n"
    (tmp_path / "helper.py").write_text(f"{helper}    clip_grad_norm_(model.parameters(), 1.0)\n")
    loop = LOOP.replace("    scaler.step", "    clip(model)\n    scaler.step") + "\n" + UPDATE
    data = book(words("x"), f"{SETUP}\nfrom helper import clip", loop)
    (tmp_path / "train.ipynb").write_text(json.dumps(data))
    (finding,) = audit.check([tmp_path]).findings
    assert (finding.name, Path(finding.span.filename).name) == ("clip-before-unscale", "helper.py")
    assert finding.span.cell is None
    assert {(Path(r.span.filename).name, r.span.cell) for r in finding.related} == {
        ("train.ipynb", 3)
    }


# --- suppressions


def test_a_comment_in_a_cell_silences_that_cell() -> None:
    silent = LOOP + "  # mpaudit: ignore[missing-scaler-update] once"
    assert found(book("!ls 'x", SETUP, "%%time\n" + silent)) == []
    above = LOOP.replace("    scaler.step", "    # mpaudit: ignore[MP104]\n    scaler.step")
    assert found(book(SETUP, above)) == []
    findings = found(book(SETUP, "# mpaudit: ignore[MP104]", LOOP))
    assert places(findings) == [("unused-suppression", 2, 1), ("missing-scaler-update", 3, 6)]


def test_a_warning_about_a_comment_names_cell_and_row(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(book(words("x"), SETUP, "\n" + LOOP + "  # mpaudit: ignore")))
    assert f"{path}:cell 3:7: `# mpaudit: ignore` silences nothing" in call("check", path).stderr


# --- every output


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    old = LOOP.replace("torch.autocast(", "torch.cuda.amp.autocast(").replace('"cuda"', "")
    setup = SETUP.replace("torch.amp.GradScaler(", "torch.cuda.amp.GradScaler(")
    cells = [words("x"), setup.replace('"cuda"', ""), *["print(1)"] * 8, old + "\n" + UPDATE]
    Path("nb.ipynb").write_text(json.dumps(book(*cells)))
    return tmp_path


def test_concise_and_full_name_cell_and_row(here: Path) -> None:
    concise = call("check", "--output-format", "concise", "nb.ipynb").stdout
    assert concise.startswith("nb.ipynb:cell 2:4:10: error[MP701] ")
    full = call("check", "nb.ipynb").stdout
    assert " --> nb.ipynb:cell 2:4:10\n" in full
    assert "4 | scaler = torch.cuda.amp.GradScaler()\n  |          ^^^" in full
    assert " ::: nb.ipynb:cell 11:3:10\n" in full
    assert "3 |     with torch.cuda.amp.autocast():\n  |          ---" in full


def test_json_names_cell_and_row(here: Path) -> None:
    (item,) = json.loads(call("check", "--output-format", "json", "nb.ipynb").stdout)
    assert (item["cell"], item["location"]) == (2, {"row": 4, "column": 10})
    assert (item["related"][0]["cell"], item["related"][0]["location"]["row"]) == (11, 3)
    edits = [(each["cell"], each["location"]["row"]) for each in item["fix"]["edits"]]
    assert edits == [(2, 4), (2, 4), (11, 3), (11, 3)]


def test_diff_names_the_cells_in_order(here: Path) -> None:
    before = Path("nb.ipynb").read_bytes()
    result = call("check", "--diff", "nb.ipynb")
    assert result.exit_code == 1
    assert re.findall(r"^--- (.*)$", result.stdout, re.MULTILINE) == [
        "nb.ipynb:cell 2",
        "nb.ipynb:cell 11",
    ]
    assert "@@ -1,4 +1,4 @@\n" in result.stdout
    assert '+    with torch.amp.autocast("cuda"):\n' in result.stdout
    assert Path("nb.ipynb").read_bytes() == before


def test_scripts_in_percent_format_are_scripts() -> None:
    script = f"# %% [markdown]\n# # Title\n\n# %%\n{SETUP}\n\n# %%\n{LOOP}\n"
    (finding,) = audit.check_text(script, "train.py")
    assert (finding.span.cell, finding.span.start.row) == (None, 16)


# --- large notebooks

MEASURED = """
import atexit, pathlib, re, sys
from mpaudit.cli import main
status = pathlib.Path("/proc/self/status")
most = lambda: re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1] if status.exists() else 0
atexit.register(lambda: print(most(), file=sys.stderr))
main(sys.argv[1:])
"""  # KiB of memory at the most, on stderr; what `resource` says includes the parent's


@pytest.mark.parametrize("megabytes", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_large_outputs_cost_little_time_and_memory(tmp_path: Path, megabytes: int) -> None:
    image = {"data": {"image/png": "iVBORw0KGgo" * 40_000}, "output_type": "display_data"}
    lines = {"output_type": "stream", "text": [f"step {n} é\n" for n in range(20_000)]}
    cells = [code("x = '\U0001f600'", outputs=[image, lines]) for _ in range(megabytes)]
    path = tmp_path / "large.ipynb"
    dumped = json.dumps(book(SETUP, *cells, LOOP), indent=1, ensure_ascii=False)
    path.write_text(dumped, encoding="utf-8")
    size = path.stat().st_size
    assert size > megabytes * 900_000
    del dumped
    start = time.perf_counter()
    command = [sys.executable, "-c", MEASURED, "check", "--fix", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - start
    assert (done.returncode, done.stdout) == (0, "Found 1 error (1 fixed, 0 remaining).\n")
    assert path.stat().st_size == size + len('\\n",\n    "') + len(UPDATE)
    assert taken < 10 + megabytes
    assert int(done.stderr) * 1024 < 100e6 + 8 * size

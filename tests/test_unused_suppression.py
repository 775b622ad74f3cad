"""Comments that silence nothing are found and taken out; findings are silenced by new ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpaudit import audit
from mpaudit.cli import main
from mpaudit.config import Selection
from mpaudit.finding import Finding

LOOP = """\
import torch
scaler = torch.amp.GradScaler("cuda")
for x, y in loader:
    optimizer.zero_grad()
    with torch.autocast("cuda"):
        loss = criterion(model(x), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)@
"""
CLEAN = LOOP + "    scaler.update()\n"
UNUSED = "unused-suppression"
NOT_GIVEN = Selection()


def marked(comment: str, text: str = CLEAN) -> str:
    return text.replace("@", f"  {comment}" if comment else "")


def check(text: str, selection: Selection = NOT_GIVEN) -> list[tuple[str, int]]:
    return [(f.name, f.span.start.row) for f in audit.check_text(text, "train.py", selection)]


def finding(text: str) -> Finding:
    (found,) = audit.check_text(text, "train.py")
    assert (found.code, found.name) == ("MP002", UNUSED)
    return found


def fixed(text: str) -> str:
    return audit.fix_text(text, "train.py", unsafe=False, names={UNUSED})


def call(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in args])


# --- what is reported


@pytest.mark.parametrize("text", [CLEAN, LOOP], ids=["silences nothing", "silences something"])
@pytest.mark.parametrize(
    "comment",
    ["# mpaudit: ignore[MP104] why", "# mpaudit: ignore[missing-scaler-update]", "# noqa: MP104"],
)
def test_a_comment_is_used_or_reported(comment: str, text: str) -> None:
    assert check(marked(comment, text)) == ([(UNUSED, 8)] if text is CLEAN else [])


@pytest.mark.parametrize("text", [CLEAN, LOOP], ids=["silences nothing", "silences something"])
@pytest.mark.parametrize(
    ("above", "below", "row"),
    [
        ("# mpaudit: file-ignore[MP104]\n", "", 1),
        ("# mpaudit: disable[MP104]\n", "# mpaudit: enable[MP104]\n", 1),
    ],
)
def test_files_and_ranges_are_used_or_reported(above: str, below: str, row: int, text: str) -> None:
    found = check(above + marked("", text) + below)
    assert found == ([(UNUSED, row)] if text is CLEAN else [])


def test_only_the_words_that_silence_nothing_are_named() -> None:
    found = finding(marked("# mpaudit: ignore[MP105, missing-scaler-update, MP106]", LOOP))
    assert found.message == (
        "`MP105`, `MP106` in `# mpaudit: ignore[MP105, missing-scaler-update, MP106]` "
        "silence nothing"
    )
    assert (found.span.start.column, found.span.end.column) == (29, 83)


def test_a_bare_noqa_and_other_tools_codes_are_not_ours_to_judge() -> None:
    assert check(marked("# noqa")) == []
    assert check(marked("# noqa: E501, F401")) == []


def test_rules_that_are_off_are_not_asked() -> None:
    text = marked("# mpaudit: ignore[MP104]")
    assert check(text, Selection(ignore=("MP104",))) == []
    assert check(text, Selection(ignore=("MP1",))) == []
    assert check(text, Selection(ignore=(UNUSED,))) == []
    assert check(text, Selection(select=("MP105",))) == []
    assert check(text, Selection(select=("MP002",))) == [(UNUSED, 8)]  # all rules were asked
    assert check(marked("# mpaudit: ignore[MP104]", LOOP), Selection(select=("MP002",))) == []
    advice = marked("# mpaudit: ignore[assumed-bfloat16]")
    assert check(advice) == []
    assert check(advice, Selection(("ALL",), ignore=("MP8",))) == [(UNUSED, 8)]


def test_rules_that_only_a_run_sees_are_not_asked() -> None:
    assert check(marked("# mpaudit: ignore[activation-overflow]")) == []


def test_a_comment_that_names_this_rule_is_kept() -> None:
    assert check(marked("# mpaudit: ignore[MP105, MP002] with another torch")) == []
    assert check("# mpaudit: file-ignore[MP002]\n" + marked("# noqa: MP105")) == []


def test_a_file_that_cannot_be_read_is_not_judged() -> None:
    assert [name for name, _ in check(marked("# noqa: MP105") + "x = (\n")] == ["unparsable-source"]


def test_a_file_too_large_to_follow_is_not_judged() -> None:
    long = marked("# noqa: MP105", LOOP) + "".join(f"x{i} = {i}\n" for i in range(50_000))
    assert [name for name, _ in check(long)] == []


def test_a_file_without_our_words_is_judged_by_its_comments(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1  # mpaudit: ignore[MP104]\n")
    (tmp_path / "b.py").write_text("x = 1  # noqa: MP104\n")
    (tmp_path / "c.py").write_text("x = '# mpaudit: ignore[MP104]'\nx = (\n")
    found = audit.check([tmp_path]).findings
    assert [(Path(f.span.filename).name, f.name) for f in found] == [
        ("a.py", UNUSED),
        ("b.py", UNUSED),
    ]


# --- what others may silence


HELPER = """\
from torch.nn.utils import clip_grad_norm_


def clip(model):
    clip_grad_norm_(model.parameters(), 1.0)  # mpaudit: ignore[clip-before-unscale]
"""
TRAIN = CLEAN.replace("@", "").replace("import torch\n", "import torch\nfrom helper import clip\n")
TRAIN = TRAIN.replace("    scaler.step", "    clip(model)\n    scaler.step")


def found_in(path: Path) -> list[str]:
    return [f"{Path(f.span.filename).name}: {f.name}" for f in audit.check([path]).findings]


@pytest.mark.parametrize("marker", ["pyproject.toml", None])
def test_a_comment_for_what_a_caller_does_is_judged_with_its_callers_only(
    tmp_path: Path, marker: str | None
) -> None:
    root = tmp_path / "project"
    source = root / "src"
    source.mkdir(parents=True)
    if marker:
        (root / marker).touch()
    (source / "helper.py").write_text(HELPER)
    train = (root if marker else source) / "train.py"
    train.write_text(TRAIN.replace("from helper", "from src.helper") if marker else TRAIN)
    assert found_in(root) == found_in(source) == found_in(source / "helper.py") == []
    train.write_text(CLEAN.replace("@", ""))
    assert found_in(root) == [f"helper.py: {UNUSED}"]
    assert found_in(source) == ([] if marker else [f"helper.py: {UNUSED}"])
    assert found_in(source / "helper.py") == []
    (source / "helper.py").write_text("x = 1  # mpaudit: ignore[MP104]\n")
    assert found_in(source / "helper.py") == [f"helper.py: {UNUSED}"]


def test_a_comment_that_is_used_by_a_caller_survives_a_fix(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text(HELPER + "\n\nx = 1  # noqa: MP104\n")
    (tmp_path / "train.py").write_text(TRAIN)
    report, _ = audit.fix([tmp_path], unsafe=True, write=True)
    assert not report.findings
    assert report.fixed == {str(tmp_path / "helper.py"): {UNUSED: 1}}
    assert (tmp_path / "helper.py").read_text() == HELPER + "\n\nx = 1\n"


# --- the fix


@pytest.mark.parametrize(
    ("comment", "left"),
    [
        ("# mpaudit: ignore[MP104] a reason, issue #12", ""),
        ("# noqa: MP104", ""),
        ("# noqa: E501, MP104", "  # noqa: E501"),
        ("# noqa: MP104,E501 long", "  # noqa: E501 long"),
        ("# a remark  # mpaudit: ignore[MP104]", "  # a remark"),
        ("# mpaudit: ignore[MP104] why  # type: ignore", "  # type: ignore"),
        ("# noqa: E501  # mpaudit: ignore[MP104] why", "  # noqa: E501"),
        ("# mpaudit: ignore[MP104]  # noqa: MP104", ""),
    ],
)
def test_the_fix_takes_out_what_silences_nothing_and_no_more(comment: str, left: str) -> None:
    for newline in ("\n", "\r\n"):
        before = marked(comment).replace("\n", newline)
        assert fixed(before) == CLEAN.replace("@", left).replace("\n", newline)


def test_the_fix_keeps_the_words_that_silence_something() -> None:
    before = marked("# mpaudit: ignore[MP105, MP104 ,MP106] why", LOOP)
    assert fixed(before) == marked("# mpaudit: ignore[MP104] why", LOOP)


@pytest.mark.parametrize(
    "before",
    [
        "# mpaudit: file-ignore[MP104]\nx = 1\n",
        "x = 1\n# mpaudit: ignore[MP104] above\n",
        "# mpaudit: disable[MP104]\nx = 1\n# mpaudit: enable[MP104]\n",
        "# mpaudit: disable[MP104, MP105]\nx = 1\n# mpaudit: enable[MP105]\n# mpaudit: enable[MP104]\n",
    ],
)
def test_lines_that_hold_nothing_else_go(before: str) -> None:
    assert fixed(before) == "x = 1\n"


def test_of_a_range_one_word_goes_at_both_ends() -> None:
    before = marked("", LOOP).replace("for x", "# mpaudit: disable[MP104, MP105]\nfor x")
    after = fixed(before + "# mpaudit: enable[MP104, MP105]\n")
    assert after == before.replace(", MP105", "") + "# mpaudit: enable[MP104]\n"


def test_in_a_notebook_cells_lose_comments_and_nothing_else(tmp_path: Path) -> None:
    cells = [marked("").rstrip("\n"), "x = 1\n# mpaudit: ignore[MP104]", "y = 2  # noqa: MP104"]
    book = {"cells": [{"cell_type": "code", "source": each} for each in cells]}
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(book))
    assert [(f.name, f.span.cell) for f in audit.check([path]).findings] == [
        (UNUSED, 2),
        (UNUSED, 3),
    ]
    audit.fix([path], unsafe=False, write=True)
    after = [cell["source"] for cell in json.loads(path.read_text())["cells"]]
    assert after == [cells[0], "x = 1", "y = 2"]


# --- --add-ignore


def test_add_ignore_silences_what_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(marked("# a remark", LOOP))
    result = call("check", "--add-ignore", path)
    assert (result.exit_code, result.stdout) == (0, "All checks passed!\n")
    assert result.stderr == "Silenced 1 finding.\n"
    assert path.read_text() == marked("# a remark  # mpaudit: ignore[missing-scaler-update]", LOOP)
    assert call("check", "--add-ignore", path).stderr == "Silenced 0 findings.\n"


def test_add_ignore_takes_a_reason_and_lengthens_a_list(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(marked("# mpaudit: ignore[MP002] x", LOOP))
    assert call("check", "--add-ignore=see\n#7", path).exit_code == 0
    assert path.read_text() == marked("# mpaudit: ignore[MP002, missing-scaler-update] x", LOOP)
    path.write_text(marked("", LOOP))
    assert call("check", "--add-ignore=see\n#7", path).exit_code == 0
    assert path.read_text() == marked("# mpaudit: ignore[missing-scaler-update] see #7", LOOP)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (
            "    scaler.step(\n        optimizer,\n    )\n",
            "    scaler.step(  # mpaudit: ignore[missing-scaler-update]\n        optimizer,\n    )\n",
        ),
        (
            "    scaler.step(optimizer, '''\n  a\n''')\n",
            "    scaler.step(optimizer, '''\n  a\n''')  # mpaudit: ignore[missing-scaler-update]\n",
        ),
        (
            "    scaler \\\n    .step(optimizer); x = '''\n'''\n",
            "    # mpaudit: ignore[missing-scaler-update]\n"
            "    scaler \\\n    .step(optimizer); x = '''\n'''\n",
        ),
        (
            "    scaler.step(optimizer)",
            "    scaler.step(optimizer)  # mpaudit: ignore[missing-scaler-update]",
        ),
    ],
)
def test_add_ignore_finds_a_place_where_a_comment_can_stand(
    tmp_path: Path, step: str, expected: str
) -> None:
    path = tmp_path / "a.py"
    for newline in ("\n", "\r\n"):
        before = LOOP.replace("    scaler.step(optimizer)@\n", step).replace("\n", newline)
        path.write_bytes(before.encode())
        assert call("check", "--add-ignore", path).exit_code == 0
        after = LOOP.replace("    scaler.step(optimizer)@\n", expected).replace("\n", newline)
        assert path.read_bytes() == after.encode()


def test_add_ignore_in_a_notebook(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    setup, loop = marked("", LOOP).rstrip("\n").split("\nfor", 1)
    cells = ["!ls", setup, "%%time\nfor" + loop]
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": s} for s in cells]}))
    assert call("check", "--add-ignore=x", path).exit_code == 0
    after = [cell["source"] for cell in json.loads(path.read_text())["cells"]]
    assert after == [*cells[:2], cells[2] + "  # mpaudit: ignore[missing-scaler-update] x"]


def test_add_ignore_leaves_what_no_comment_silences(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = (  # autocast\n")
    (tmp_path / "b.py").write_text("x = 1  # mpaudit: ignore[MP104]\n")
    result = call("check", "--add-ignore", "--output-format", "concise", tmp_path)
    assert result.exit_code == 1
    assert result.stderr == "Silenced 0 findings.\n"
    assert "MP001" in result.stdout
    assert "MP002" in result.stdout
    assert (tmp_path / "b.py").read_text() == "x = 1  # mpaudit: ignore[MP104]\n"


@pytest.mark.parametrize("other", ["--fix", "--diff"])
def test_add_ignore_does_one_thing(tmp_path: Path, other: str) -> None:
    path = tmp_path / "a.py"
    path.write_text(marked("", LOOP))
    result = call("check", "--add-ignore", other, path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "cannot be combined" in result.stderr
    assert path.read_text() == marked("", LOOP)

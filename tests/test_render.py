"""The renderers of a check, held to fixtures/reports (MPAUDIT_GOLDEN=1 rewrites the files)."""

from __future__ import annotations

import json as standard_json
import os
import re
from pathlib import Path

import pytest

from mpaudit.finding import Finding, Moment, Position, Related, Span
from mpaudit.fix import Edit, Fix, Safety
from mpaudit.render import concise, diff, json, page, rules, text
from mpaudit.render.colour import painter
from mpaudit.render.frame import Mark, cell_width, draw
from mpaudit.report import Report, position
from mpaudit.rule import Severity, catalogue, rule

FIXTURES = Path(__file__).parents[1] / "fixtures"
ARTICLE = (FIXTURES / "article" / "article_pytorch.py").read_text(encoding="utf-8")
LOOP = """\
from model import scaler
def 一步(损失, 优化器):
\tscaler.scale(损失).backward(); 裁剪(参数); scaler.step(优化器)
"""
MODEL = "import torch\n\nscaler = torch.amp.GradScaler('cuda')\n"
ARTICLE_NAME, LOOP_NAME, MODEL_NAME = "/project/train.py", "/project/步.py", "/project/model.py"


def at(source: str, piece: str, filename: str) -> Span:
    start = source.index(piece)
    return Span(filename, position(source, start), position(source, start + len(piece)))


def report() -> Report:
    end = len(ARTICLE.rstrip())
    return Report(
        [
            Finding(
                "MP104",
                "missing-scaler-update",
                Severity.ERROR,
                "`policy.step(optimizer)` is not followed by `policy.update()`",
                at(ARTICLE, "policy.step(optimizer)", ARTICLE_NAME),
                consequence="the second iteration raises RuntimeError",
                fix=Fix(
                    "call `policy.update()` after the step",
                    (Edit(end, end, "\n        policy.update()"),),
                    Safety.SAFE,
                ),
                related=(
                    Related(at(ARTICLE, "policy.scale(loss)", ARTICLE_NAME), "scaled here"),
                    Related(at(ARTICLE, "torch.cuda.amp.GradScaler()", ARTICLE_NAME), "made here"),
                ),
                moment=Moment(1, op="GradScaler.step"),
                confirmed=True,
            ),
            Finding(
                "MP204",
                "autocast-device-mismatch",
                Severity.WARNING,
                "the region casts on cuda, but the model stays on the CPU",
                at(ARTICLE, "with torch.cuda.amp.autocast():", ARTICLE_NAME),
                consequence="nothing is cast: every layer computes in float32",
                fix=Fix("move model and batch to cuda", (Edit(0, 0, ""),), Safety.SUGGESTION),
            ),
            Finding(
                "MP105",
                "clip-before-unscale",
                Severity.ERROR,
                "gradients are clipped while they still carry the loss scale",
                at(LOOP, "裁剪(参数)", LOOP_NAME),
                consequence="the norm is 65536 times too large: clipping always fires",
                fix=Fix(
                    "unscale first", (Edit(80, 80, "scaler.unscale_(优化器); "),), Safety.UNSAFE
                ),
                related=(
                    Related(at(LOOP, "scaler.scale(损失)", LOOP_NAME), "scaled here"),
                    Related(at(MODEL, "torch.amp.GradScaler('cuda')", MODEL_NAME), "made here"),
                ),
            ),
            Finding(
                "MP001",
                "unparsable-source",
                Severity.ERROR,
                "not text in a known encoding",
                Span("/project/a.bin.py", Position(1, 1), Position(1, 1)),
            ),
        ],
        sources={ARTICLE_NAME: ARTICLE, LOOP_NAME: LOOP, MODEL_NAME: MODEL},
        checked=4,
    )


def held(name: str, found: str) -> None:
    golden = FIXTURES / "reports" / name
    if os.environ.get("MPAUDIT_GOLDEN"):
        golden.write_text(found, encoding="utf-8")
    assert found == golden.read_text(encoding="utf-8")


def test_full() -> None:
    held("check.txt", text.render(report()))


def test_concise() -> None:
    held("check.concise.txt", concise.render(report()))


def test_json() -> None:
    held("check.json", json.render(report()))


def test_nothing_found() -> None:
    assert text.render(Report([])) == concise.render(Report([])) == "All checks passed!\n"
    assert json.render(Report([])) == "[]\n"


def test_colours_change_nothing_but_colours() -> None:
    for render in (text.render, concise.render):
        coloured = render(report(), colour=True)
        assert "\x1b[1;91m" in coloured
        assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == render(report())


def test_json_keeps_the_contract() -> None:
    items = standard_json.loads(json.render(report()))
    keys = "code name severity message filename cell location end_location fix related url"
    assert all(list(each) == [*keys.split(), "confirmed"] for each in items)
    step = next(each for each in items if each["code"] == "MP104")
    assert step["filename"] == ARTICLE_NAME
    assert step["location"] == {"row": 31, "column": 9}
    assert step["end_location"] == {"row": 31, "column": 31}
    assert step["fix"]["applicability"] == "safe"
    assert step["fix"]["edits"] == [
        {
            "content": "\n        policy.update()",
            "location": {"row": 31, "column": 31},
            "end_location": {"row": 31, "column": 31},
        }
    ]
    assert step["related"][0]["location"] == {"row": 30, "column": 9}
    assert step["url"].endswith("/missing-scaler-update/")
    assert step["confirmed"] is True


def test_json_names_files_absolutely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    span = Span("sub/a.py", Position(1, 1), Position(1, 2))
    found = Report([Finding("MP104", "n", Severity.ERROR, "m", span)])
    (each,) = standard_json.loads(json.render(found))
    assert each["filename"] == str(tmp_path / "sub" / "a.py")


def frame(source: str, *marks: Mark) -> list[str]:
    return draw(marks, source, 1, painter(False))


def mark(source: str, piece: str, label: str = "", style: str = "error") -> Mark:
    return Mark(at(source, piece, "a.py"), label, style)


def test_carets_stand_under_wide_characters() -> None:
    source = "损失 = 裁剪(x)  # é e\u0301\n"
    row, carets = frame(source, mark(source, "裁剪(x)", "here"))[1:3]
    assert row == "1 | 损失 = 裁剪(x)  # é e\u0301"
    assert carets == "  |        ^^^^^^^ here"
    assert cell_width(row[: row.index("裁")]) == carets.index("^")
    accents = frame(source, mark(source, "e\u0301"))[2]
    assert accents.count("^") == 1


def test_tabs_and_what_could_fool_a_terminal() -> None:
    source = "\tx\t= '\x1b[31m\u202e'\n"
    row, carets = frame(source, mark(source, "'\x1b[31m\u202e'"))[1:3]
    assert row == "1 |     x    = '\ufffd[31m\ufffd'"
    assert carets.index("^") == row.index("'")
    assert carets.count("^") == len("'\ufffd[31m\ufffd'")


def test_several_marks_in_a_line_have_a_line_each() -> None:
    source = "scaler.step(o); scaler.update(); scaler.update()\n"
    lines = frame(
        source,
        mark(source, "scaler.update()", "again"),
        mark(source, "scaler.step(o)", "stepped here", "frame"),
    )
    assert lines[2:4] == [
        "  |                 ^^^^^^^^^^^^^^^ again",
        "  | -------------- stepped here",
    ]


def test_rows_between_are_left_out() -> None:
    source = "\n".join(f"row{n}" for n in range(1, 10)) + "\n"
    near = frame(source, mark(source, "row7"), mark(source, "row3", "made", "frame"))
    assert [each[0] for each in near] == [" ", "3", " ", *"4567", " ", *"89", " "]
    far = frame(source, mark(source, "row7"), mark(source, "row1", "made", "frame"))
    assert far[3] == "..."


def test_a_long_stretch_shows_its_first_and_last_row() -> None:
    source = "f(\n" + "".join(f"    a{n},\n" for n in range(9)) + ")\n"
    lines = frame(source, mark(source, source.rstrip(), "the call"))
    assert [each for each in lines if "^" in each] == ["  | ^^", "  | ^ the call"]
    assert "..." in lines


def test_a_very_long_line_is_cut_around_the_mark() -> None:
    source = "x = [" + "1, " * 2000 + "scaler.step(o)" + ", 2" * 2000 + "]\n"
    row, carets = frame(source, mark(source, "scaler.step(o)"))[1:3]
    assert len(row) < 160
    assert row.endswith("…")
    assert row[carets.index("^") : carets.rindex("^") + 1] == "scaler.step(o)"


def test_a_place_that_is_a_row_alone_marks_its_code() -> None:
    source = "for x in y:\n    loss = model(x)  \n"
    span = Span("a.py", Position(2, 1), Position(2, 1))
    row, carets = frame(source, Mark(span, "", "error"))[2:4]
    assert row == "2 |     loss = model(x)"
    assert carets == "  |     ^^^^^^^^^^^^^^^"


def test_a_place_past_the_end_still_has_a_caret() -> None:
    source = "x = (\n"
    span = Span("a.py", Position(1, 6), Position(1, 6))
    assert frame(source, Mark(span, "", "error"))[1:3] == ["1 | x = (", "  |      ^"]
    span = Span("a.py", Position(2, 1), Position(2, 1))
    assert "  | ^" in frame(source, Mark(span, "", "error"))


def test_diff_is_a_patch() -> None:
    changes = {
        "/project/b.py": ("a = 1\r\nb = 2\r\n", "a = 1\r\nc = 3\r\n"),
        "/project/a.py": ("x = 1", "x = 2\n"),
        "/project/same.py": ("x\n", "x\n"),
    }
    assert diff.render(changes) == (
        "--- /project/a.py\n+++ /project/a.py\n@@ -1 +1 @@\n"
        "-x = 1\n\\ No newline at end of file\n+x = 2\n"
        "--- /project/b.py\n+++ /project/b.py\n@@ -1,2 +1,2 @@\n a = 1\r\n-b = 2\r\n+c = 3\r\n"
    )
    coloured = diff.render(changes, colour=True)
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == diff.render(changes)
    assert "\x1b[32m+x = 2\x1b[0m\n" in coloured


def test_a_page_reads_as_text() -> None:
    shown = page.text(rule("missing-scaler-update"))
    assert shown.startswith("MP104 missing-scaler-update: ")
    assert "```" not in shown
    assert "    scaler.step(optimizer)" in shown
    assert "seen-by" not in shown
    assert shown.rstrip().endswith("/missing-scaler-update/")
    prose = [each for each in shown.splitlines() if not each.startswith("    ")]
    assert max(map(len, prose[3:])) <= 88


def test_a_page_as_json_and_markdown() -> None:
    known = rule("missing-scaler-update")
    data = standard_json.loads(page.data(known))
    assert data["code"] == "MP104"
    assert data["messages"] == list(known.messages)
    assert "scaler.step(optimizer)" in data["bad"]
    assert page.markdown(known) == known.page


def test_the_list_of_rules() -> None:
    known = list(catalogue().values())
    items = standard_json.loads(rules.data(known))
    assert [each["code"] for each in items] == sorted(each.code for each in known)
    keys = ["code", "name", "summary", "severity", "seen_by", "fix", "frameworks", "preview"]
    assert all(list(each) == keys for each in items)
    lines = rules.text(known).splitlines()
    assert len(lines) == len(known)
    assert any(each.startswith("MP104  missing-scaler-update ") for each in lines)
    assert rules.markdown(known).count("\n") == len(known) + 2


def test_the_list_of_rules_says_who_can_see_each() -> None:
    columns = {
        each.split()[0]: each.split()[2:4]
        for each in rules.text(list(catalogue().values())).splitlines()
    }
    assert columns["MP104"] == ["error", "both"]
    assert columns["MP105"][1] == "both"
    assert columns["MP001"] == ["error", "source"]
    assert columns["MP901"] == ["error", "run"]
    table = rules.markdown([rule("missing-scaler-update"), rule("activation-overflow")])
    assert "| error | both | safe |" in table
    assert "| error | run | none |" in table

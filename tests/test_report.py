"""The value every renderer gets: order, counts and closing lines, rows and columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpaudit.finding import Finding, Position, Span
from mpaudit.fix import Edit, Fix, Safety
from mpaudit.report import Report, count, line, position, shown
from mpaudit.rule import Severity


def finding(
    row: int = 1,
    *,
    safety: Safety | None = None,
    filename: str = "a.py",
    code: str = "MP104",
    column: int = 1,
    cell: int | None = None,
) -> Finding:
    span = Span(filename, Position(row, column), Position(row, column + 3), cell)
    fix = None if safety is None else Fix("do it", (Edit(0, 0, "x"),), safety)
    return Finding(code, "some-rule", Severity.ERROR, "said", span, fix=fix)


def test_findings_are_in_order_of_file_cell_row_column_and_code() -> None:
    ordered = [
        finding(9, filename="a.py"),
        finding(1, filename="b.ipynb", cell=2),
        finding(1, filename="b.ipynb", cell=10),
        finding(2, filename="c.py"),
        finding(2, filename="c.py", column=5),
        finding(2, filename="c.py", column=5, code="MP204"),
        finding(10, filename="c.py"),
    ]
    assert list(Report(ordered[::-1]).findings) == ordered


SAFE, UNSAFE, NOTE = Safety.SAFE, Safety.UNSAFE, Safety.SUGGESTION


@pytest.mark.parametrize(
    ("fixes", "options", "lines"),
    [
        ([], {}, ("All checks passed!",)),
        ([None], {}, ("Found 1 error.",)),
        ([None, NOTE], {}, ("Found 2 errors.",)),
        ([SAFE], {}, ("Found 1 error.", "[*] 1 fixable with `--fix`.")),
        (
            [UNSAFE],
            {},
            ("Found 1 error.", "1 unsafe fix available with `--fix --unsafe-fixes`."),
        ),
        (
            [SAFE, SAFE, UNSAFE, UNSAFE, NOTE],
            {},
            (
                "Found 5 errors.",
                "[*] 2 fixable with `--fix` "
                "(2 unsafe fixes available with `--fix --unsafe-fixes`).",
            ),
        ),
        (
            [SAFE, UNSAFE, NOTE],
            {"unsafe_fixes": True},
            ("Found 3 errors.", "[*] 2 fixable with `--fix`."),
        ),
        (
            [],
            {"fixed": {"a.py": {"MP104": 1}}, "fixing": True},
            ("Found 1 error (1 fixed, 0 remaining).",),
        ),
        (
            [UNSAFE, None],
            {"fixed": {"a.py": {"MP104": 1}, "b.py": {"MP104": 2}}, "fixing": True},
            (
                "Found 5 errors (3 fixed, 2 remaining).",
                "1 unsafe fix available with `--fix --unsafe-fixes`.",
            ),
        ),
        ([], {"fixing": True}, ("All checks passed!",)),
        ([None], {"fixing": True}, ("Found 1 error.",)),
    ],
)
def test_the_closing_lines_are_ruffs(
    fixes: list[Safety | None], options: dict[str, object], lines: tuple[str, ...]
) -> None:
    report = Report([finding(n, safety=each) for n, each in enumerate(fixes, 1)], **options)
    assert report.summary() == lines


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_rows_and_columns(newline: str) -> None:
    text = newline.join(["ab", "", "混合c"])
    assert position(text, 0) == Position(1, 1)
    assert position(text, 2) == Position(1, 3)
    assert position(text, text.index("混")) == Position(3, 1)
    assert position(text, text.index("c")) == Position(3, 3)
    assert position(text, len(text)) == Position(3, 4)
    assert [line(text, row) for row in (1, 2, 3, 4)] == ["ab", "", "混合c", ""]


def test_only_python_line_ends_end_a_line() -> None:
    text = "a\x0cb\u2028c\x1d\nd"
    assert position(text, text.index("d")) == Position(2, 1)
    assert line(text, 1) == "a\x0cb\u2028c\x1d"


def test_paths_are_shown_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(str(tmp_path / "sub" / "a.py")) == str(Path("sub", "a.py"))
    assert shown("sub/a.py") == "sub/a.py"
    assert shown(str(tmp_path.parent / "b.py")) == str(tmp_path.parent / "b.py")


def test_plurals() -> None:
    assert [count(1, "error"), count(2, "unsafe fix")] == ["1 error", "2 unsafe fixes"]

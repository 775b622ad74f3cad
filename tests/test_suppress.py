"""`# mpaudit: ignore[...]`."""

from __future__ import annotations

import pytest

from mpaudit.finding import Finding, Position, Span
from mpaudit.rule import Severity
from mpaudit.suppress import Suppressions, read


def finding(row: int, end_row: int | None = None, end_column: int = 9) -> Finding:
    span = Span("train.py", Position(row, 1), Position(end_row or row, end_column))
    return Finding("MP104", "missing-scaler-update", Severity.ERROR, "said", span)


def silenced(text: str, found: Finding) -> bool:
    return read(text, "train.py").covers(found)


@pytest.mark.parametrize(
    "comment",
    [
        "# mpaudit: ignore[missing-scaler-update]",
        "# mpaudit: ignore[MP104]",
        "# mpaudit: ignore[mp104] the caller updates",
        "#mpaudit:ignore[MP104]",
        "# mpaudit: ignore[MP101, MP104]",
        "# mpaudit: ignore[ MP104 , MP101 ]",
        "# noqa: E501  # mpaudit: ignore[MP104]",
    ],
)
def test_a_comment_silences_its_own_line(comment: str) -> None:
    text = f"a = 1\nscaler.step(o)  {comment}\nb = 2\n"
    assert silenced(text, finding(2))
    assert not silenced(text, finding(1))
    assert not silenced(text, finding(3))
    assert read(text, "train.py").warnings == ()


def test_other_rules_are_not_silenced() -> None:
    assert not silenced("scaler.step(o)  # mpaudit: ignore[MP101]\n", finding(1))


@pytest.mark.parametrize(
    "text",
    [
        'x = "# mpaudit: ignore[MP104]"\n',
        '"""\n# mpaudit: ignore[MP104]\n"""\n',
        'x = f"{y} # mpaudit: ignore[MP104]"\n',
        "# mpaudit: ignored[MP104]\nx = 1\n",
    ],
)
def test_what_is_no_such_comment_silences_nothing(text: str) -> None:
    found = read(text, "train.py")
    assert not any(found.covers(finding(row)) for row in (1, 2, 3))


def test_a_span_of_several_lines_is_silenced_at_its_first_or_last_line() -> None:
    text = "scaler.step(\n    o,\n    c,\n)\n"
    lines = text.splitlines()
    for row, expected in ((1, True), (2, False), (4, True)):
        marked = "\n".join(
            f"{line}  # mpaudit: ignore[MP104]" if number == row else line
            for number, line in enumerate(lines, 1)
        )
        assert silenced(marked, finding(1, 4, 2)) is expected
    # a span that ends at the start of a line does not touch that line
    assert not silenced("a\nb  # mpaudit: ignore[MP104]\n", finding(1, 2, 1))


def test_a_line_of_its_own_silences_the_statement_below() -> None:
    text = (
        "a = 1\n"
        "# mpaudit: ignore[MP104] the callback updates\n"
        "# another remark\n"
        "\n"
        "scaler.step(\n"
        "    optimizer,\n"
        ")\n"
        "scaler.step(optimizer)\n"
    )
    rows = [row for row in range(1, 9) if silenced(text, finding(row))]
    assert rows == [5, 6, 7]


def test_a_line_of_its_own_within_a_statement_silences_the_next_line() -> None:
    text = "f(\n    a,\n    # mpaudit: ignore[MP104]\n    scaler.step(o),\n    b,\n)\n"
    assert [row for row in range(1, 7) if silenced(text, finding(row))] == [4]


def test_several_lines_above_add_up() -> None:
    text = "# mpaudit: ignore[MP101]\n# mpaudit: ignore[MP104]\nscaler.step(o)\n"
    assert silenced(text, finding(3))


def test_blocks_are_silenced_by_their_first_line_only() -> None:
    text = "# mpaudit: ignore[MP104]\nfor b in data:\n    scaler.step(o)\n"
    assert silenced(text, finding(2))
    assert not silenced(text, finding(3))


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_line_ending_counts_alike(newline: str) -> None:
    text = newline.join(["a = 1", "# mpaudit: ignore[MP104]", "scaler.step(o)", "b = 2", ""])
    assert [row for row in range(1, 5) if silenced(text, finding(row))] == [3]


@pytest.mark.parametrize(
    ("comment", "words"),
    [
        ("# mpaudit: ignore", "`# mpaudit: ignore` silences nothing: name the rules"),
        ("# mpaudit: ignore because", "`# mpaudit: ignore` silences nothing: name the rules"),
        ("# mpaudit: ignore[]", "`# mpaudit: ignore[]` silences nothing: name the rules"),
        ("# mpaudit: ignore[MP104", "`# mpaudit: ignore` silences nothing: name the rules"),
        (
            "# mpaudit: ignore[missing-scaler-updat]",
            "names no rule; did you mean 'missing-scaler-update'?",
        ),
        ("# mpaudit: ignore[F401]", "names no rule; see `mpaudit rules`"),
    ],
)
def test_a_comment_that_cannot_silence_is_said_aloud(comment: str, words: str) -> None:
    found = read(f"x = 1\nscaler.step(o)  {comment}\n", "train.py")
    assert not found.covers(finding(2))
    (warning,) = found.warnings
    assert warning.startswith("train.py:2: ")
    assert words in warning


def test_what_comes_before_a_syntax_error_still_counts() -> None:
    text = "scaler.step(o)  # mpaudit: ignore[MP104]\nx = (\n"
    assert silenced(text, finding(1))


def test_an_own_line_at_the_end_silences_nothing() -> None:
    text = "scaler.step(o)\n# mpaudit: ignore[MP104]\n"
    assert not silenced(text, finding(1))


def test_a_byte_order_mark_does_not_matter() -> None:
    assert silenced("\ufeffscaler.step(o)  # mpaudit: ignore[MP104]\n", finding(1))


# --- noqa


@pytest.mark.parametrize(
    "comment",
    [
        "# noqa: MP104",
        "# noqa:mp104",
        "# NOQA: E501, MP104",
        "# noqa: E501 MP104 the caller updates",
        "# a remark  # noqa: MP104",
        "# type: ignore  # noqa: MP104  # pragma: no cover",
    ],
)
def test_noqa_with_our_code_silences_its_line(comment: str) -> None:
    text = f"a = 1\nscaler.step(o)  {comment}\nb = 2\n"
    assert [row for row in (1, 2, 3) if silenced(text, finding(row))] == [2]
    assert read(text, "train.py").warnings == ()


@pytest.mark.parametrize("comment", ["# noqa", "# noqa: E501", "# noqa:", "# noqa: MP105"])
def test_noqa_without_our_code_silences_nothing(comment: str) -> None:
    text = f"scaler.step(o)  {comment}\n"
    assert not silenced(text, finding(1))
    assert read(text, "train.py").warnings == ()


def test_noqa_above_a_statement_silences_nothing_as_everywhere() -> None:
    assert not silenced("# noqa: MP104\nscaler.step(o)\n", finding(2))


def test_a_code_that_is_none_is_said_aloud() -> None:
    (warning,) = read("x = 1  # noqa: MP999, E501\n", "train.py").warnings
    assert warning.startswith("train.py:1: `# noqa: MP999` names no rule; ")


# --- files and ranges


@pytest.mark.parametrize("row", [1, 4, 9])
def test_a_file_can_be_silenced_from_anywhere_in_it(row: int) -> None:
    lines = [f"x = {number}" for number in range(9)]
    lines.insert(row - 1, "# mpaudit: file-ignore[MP104, MP105] generated")
    text = "\n".join(lines)
    assert all(silenced(text, finding(each)) for each in range(1, 11))
    assert read(text, "train.py").warnings == ()


RANGE = """\
scaler.step(o)
# mpaudit: disable[missing-scaler-update, MP105] the callback updates
scaler.step(o)
if x:
    scaler.step(o)
# mpaudit: enable[MP104]
scaler.step(o)
# mpaudit: enable[MP105]
scaler.step(o)
"""


def test_a_range_silences_what_begins_in_it() -> None:
    assert [row for row in range(1, 10) if silenced(RANGE, finding(row))] == [2, 3, 4, 5, 6]
    assert read(RANGE, "train.py").warnings == ()


def test_a_range_in_a_block_ends_with_the_block() -> None:
    text = (
        "def f():\n    # mpaudit: disable[MP104]\n    scaler.step(o)\n\n    # x\n\n"
        "scaler.step(o)\n# mpaudit: enable[MP104]\n"
    )
    assert [row for row in range(1, 9) if silenced(text, finding(row))] == [2, 3, 4, 5, 6]
    (warning,) = read(text, "train.py").warnings
    assert warning == (
        "train.py:8: `# mpaudit: enable[MP104]` ends no `disable[MP104]` of this indentation"
    )


def test_ranges_may_lie_in_each_other() -> None:
    text = (
        "# mpaudit: disable[MP104]\nfor x in y:\n    # mpaudit: disable[MP104]\n    scaler.step(o)\n"
        "    # mpaudit: enable[MP104]\n    scaler.step(o)\n# mpaudit: enable[MP104]\nscaler.step(o)\n"
    )
    assert [row for row in range(1, 9) if silenced(text, finding(row))] == [1, 2, 3, 4, 5, 6, 7]
    assert read(text, "train.py").warnings == ()


def test_a_range_that_nothing_ends_holds_to_the_end_and_is_said_aloud() -> None:
    text = "x = 1\n# mpaudit: disable[MP104]\nscaler.step(o)\n\nscaler.step(o)"
    assert [row for row in range(1, 6) if silenced(text, finding(row))] == [2, 3, 4, 5]
    (warning,) = read(text, "train.py").warnings
    assert warning.startswith("train.py:2: `# mpaudit: disable[MP104]` is never ended by ")


@pytest.mark.parametrize("kind", ["file-ignore", "disable", "enable"])
def test_what_must_stand_alone_counts_for_nothing_behind_code(kind: str) -> None:
    text = f"x = 1  # mpaudit: {kind}[MP104]\nscaler.step(o)\n"
    assert not silenced(text, finding(1))
    assert not silenced(text, finding(2))
    (warning,) = read(text, "train.py").warnings
    assert "counts on a line of its own only" in warning


def test_a_word_that_only_begins_like_ours_is_not_ours() -> None:
    for word in ("ignore-next[MP104]", "disabled[MP104]", "file-ignored[MP104]", "ignores[MP104]"):
        assert read(f"# mpaudit: {word}\nx = 1\n", "a.py") == Suppressions()

"""Rules that are off unless selected: silent by default, seen when selected, quiet on look-alikes."""

from pathlib import Path

import pytest

from mpaudit.audit import check
from mpaudit.config import Selection
from mpaudit.render.rules import text
from mpaudit.rule import catalogue

FIXTURES = Path(__file__).parents[1] / "fixtures"
RULE = "assumed-bfloat16"
MARKED = sorted((FIXTURES / "scripts").glob("assumed_bfloat16_*.py"))
LOOK_ALIKES = ("bfloat16_chosen_by_flag", "dtype_from_hardware", "dtype_from_argument")


@pytest.mark.parametrize("path", MARKED, ids=lambda path: path.stem)
def test_it_is_seen_only_if_selected(path: Path) -> None:
    assert not check([path]).findings
    for selector in (RULE, "MP311", "MP3", "ALL"):
        found = check([path], Selection(select=(selector,))).findings
        assert [each.name for each in found] == [RULE]


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_code_that_asks_is_silent(name: str) -> None:
    path = FIXTURES / "clean" / f"{name}.py"
    assert "bfloat16" in path.read_text(encoding="utf-8")
    assert not check([path], Selection(select=(RULE,))).findings


def test_the_list_says_that_it_is_off() -> None:
    rules = catalogue()
    (line,) = text([rules[RULE]]).splitlines()
    assert line.endswith("(off unless selected)")
    assert "off unless" not in text([rules["missing-scaler-update"]])

"""Rules that are off unless selected: silent by default, seen when selected, quiet on look-alikes."""

from pathlib import Path

import pytest

from mpaudit.audit import check
from mpaudit.config import Selection
from mpaudit.render.rules import text
from mpaudit.rule import catalogue

FIXTURES = Path(__file__).parents[1] / "fixtures"
RULES = {"assumed-bfloat16": "assumed_bfloat16", "low-precision-reduce": "low_precision_reduce"}
MARKED = [
    (rule, path)
    for rule, prefix in RULES.items()
    for path in sorted((FIXTURES / "scripts").glob(f"{prefix}_*.py"))
]
LOOK_ALIKES = [
    ("assumed-bfloat16", "bfloat16_chosen_by_flag"),
    ("assumed-bfloat16", "dtype_from_hardware"),
    ("assumed-bfloat16", "dtype_from_argument"),
    ("low-precision-reduce", "fsdp_reduce_dtypes"),
    ("low-precision-reduce", "fsdp2_plain_scaler"),
]


@pytest.mark.parametrize(("rule", "path"), MARKED, ids=lambda value: getattr(value, "stem", value))
def test_it_is_seen_only_if_selected(rule: str, path: Path) -> None:
    assert not check([path]).findings
    code = catalogue()[rule].code
    for selector in (rule, code, code[:3], "ALL"):
        found = check([path], Selection(select=(selector,))).findings
        assert [each.name for each in found] == [rule]


@pytest.mark.parametrize(("rule", "name"), LOOK_ALIKES)
def test_code_that_asks_is_silent(rule: str, name: str) -> None:
    path = FIXTURES / "clean" / f"{name}.py"
    assert "bfloat16" in path.read_text(encoding="utf-8")
    assert not check([path], Selection(select=(rule,))).findings


@pytest.mark.parametrize("rule", RULES)
def test_the_list_says_that_it_is_off(rule: str) -> None:
    rules = catalogue()
    (line,) = text([rules[rule]]).splitlines()
    assert line.endswith("(off unless selected)")
    assert "off unless" not in text([rules["missing-scaler-update"]])

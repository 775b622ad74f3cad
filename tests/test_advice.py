"""Rules that are off unless selected: silent by default, seen when selected, quiet on look-alikes."""

from pathlib import Path

import pytest

from mpaudit.audit import check, check_text
from mpaudit.config import Selection
from mpaudit.fix import Safety, apply
from mpaudit.render.rules import text
from mpaudit.rule import catalogue

FIXTURES = Path(__file__).parents[1] / "fixtures"
LOOK_ALIKES = {
    "assumed-bfloat16": (
        "bfloat16_chosen_by_flag",
        "dtype_from_hardware",
        "dtype_from_argument",
    ),
    "low-precision-reduce": ("fsdp_reduce_dtypes", "fsdp2_plain_scaler"),
    "tensor-core-misaligned": (
        "widths_of_the_task",
        "odd_widths_in_float32",
        "widths_of_a_configuration",
    ),
    "evaluation-outside-autocast": (
        "evaluation_in_the_same_region",
        "evaluation_of_the_average",
        "evaluation_by_a_context",
        "train_and_validate",
    ),
    "scheduler-ignores-skipped-step": (
        "scheduler_once_per_epoch",
        "scheduler_asks_the_optimizer",
        "scheduler_per_batch_in_bfloat16",
        "scheduler_follows_applied_steps",
        "skipped_step_detection",
    ),
    "compiled-backward-autocast": (
        "compiled_with_the_switch",
        "compiled_in_bfloat16",
        "compiled_for_inference",
    ),
    "unsuitable-hardware": (
        "bfloat16_on_the_cpu",
        "keras_policy_for_a_visible_gpu",
        "keras_policy_where_there_is_a_gpu",
    ),
    "hot-loop-sync": (
        "losses_read_now_and_then",
        "losses_on_the_cpu",
        "numbers_of_the_data",
    ),
    "tf32-not-enabled": ("tf32_decided", "tf32_of_a_library", "no_float32_road", "tf32_agreeing"),
    "prefer-bfloat16": (
        "float16_for_old_hardware",
        "float16_for_inference",
        "float16_by_choice",
        "scaler_for_float16_only",
    ),
}
MARKED = [
    (rule, path)
    for path in sorted((FIXTURES / "scripts").glob("*.py"))
    for rule in LOOK_ALIKES
    if f"# error: [{rule}]" in path.read_text(encoding="utf-8")
]
NAMES = [(rule, name) for rule, names in LOOK_ALIKES.items() for name in names]


def test_every_rule_of_advice_is_tried() -> None:
    for rule in LOOK_ALIKES:
        assert sum(each == rule for each, _ in MARKED) >= 3, rule
        assert not catalogue()[rule].default


@pytest.mark.parametrize(("rule", "path"), MARKED, ids=lambda each: getattr(each, "stem", each))
def test_it_is_seen_only_if_selected(rule: str, path: Path) -> None:
    assert rule not in {each.name for each in check([path]).findings}
    code = catalogue()[rule].code
    for selector in (rule, code, code[:3], "ALL"):
        found = check([path], Selection(select=(selector,))).findings
        assert rule in {each.name for each in found}


@pytest.mark.parametrize(("rule", "name"), NAMES)
def test_look_alikes_are_silent(rule: str, name: str) -> None:
    path = FIXTURES / "clean" / f"{name}.py"
    assert not check([path], Selection(select=(rule,))).findings


@pytest.mark.parametrize(
    "rule", ["scheduler-ignores-skipped-step", "compiled-backward-autocast", "tf32-not-enabled"]
)
def test_what_the_pages_propose(rule: str) -> None:
    page = catalogue()[rule]
    bad = page.example("Bad")
    assert bad is not None
    (finding,) = check_text(bad, "train.py", Selection(select=(rule,)))
    assert finding.fix is not None and finding.fix.safety is Safety.SUGGESTION
    assert apply(bad, [finding.fix])[0] == page.example("Good")


def test_a_comment_that_silences_advice_is_of_use() -> None:
    path = FIXTURES / "scripts" / "prefer_bfloat16_keras.py"
    bad = path.read_text(encoding="utf-8")
    silenced = bad.replace("# error: [prefer-bfloat16]", "# mpaudit: ignore[prefer-bfloat16]")
    assert silenced != bad
    for select in ((), ("ALL",), ("MP808", "MP002")):
        names = {each.name for each in check_text(silenced, "train.py", Selection(select=select))}
        assert not names & {"prefer-bfloat16", "unused-suppression"}


@pytest.mark.parametrize("rule", LOOK_ALIKES)
def test_the_list_says_that_it_is_off(rule: str) -> None:
    rules = catalogue()
    (line,) = text([rules[rule]]).splitlines()
    assert line.endswith("(off unless selected)")
    assert "off unless" not in text([rules["missing-scaler-update"]])

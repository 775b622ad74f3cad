"""What `--select` and `--ignore` mean."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mpaudit.config import Selection, nearest, selectors
from mpaudit.errors import MpauditError
from mpaudit.rule import Rule, catalogue, parse, rule


def page(code: str, name: str, severity: str = "error", preview: str = "false") -> Rule:
    text = f"""# {name} ({code})

```toml
summary = "made for a test"
severity = "{severity}"
seen-by = ["source"]
fix = "none"
frameworks = ["torch"]
since = "0.1.0"
preview = {preview}
```
"""
    return parse(text, origin=name)


UPDATE = rule("missing-scaler-update")  # MP104
UNSCALED = rule("unscaled-backward")  # MP102
DEVICE = rule("autocast-device-mismatch")  # MP204
UNREADABLE = rule("unparsable-source")  # MP001
ADVICE = page("MP899", "made-up-advice", severity="advice")
PREVIEW = page("MP198", "made-up-preview", preview="true")


@pytest.mark.parametrize(
    ("select", "ignore", "wanted"),
    [
        ((), (), {UPDATE, UNSCALED, DEVICE}),
        (("MP104",), (), {UPDATE}),
        (("mp104",), (), {UPDATE}),
        (("missing-scaler-update",), (), {UPDATE}),
        (("MP1",), (), {UPDATE, UNSCALED}),
        (("MP10",), (), {UPDATE, UNSCALED}),
        (("MP",), (), {UPDATE, UNSCALED, DEVICE, ADVICE}),
        (("ALL",), (), {UPDATE, UNSCALED, DEVICE, ADVICE}),
        ((), ("MP104",), {UNSCALED, DEVICE}),
        ((), ("MP1",), {DEVICE}),
        (("ALL",), ("MP1",), {DEVICE, ADVICE}),
        (("MP1",), ("MP10",), set()),
        (("MP104",), ("MP1",), {UPDATE}),  # the more specific selector wins
        (("MP10",), ("MP1",), {UPDATE, UNSCALED}),
        (("ALL", "MP104"), ("MP1",), {UPDATE, DEVICE, ADVICE}),
        (("MP104",), ("MP104",), set()),  # between equals `ignore` wins
        (("MP104", "MP2"), (), {UPDATE, DEVICE}),
    ],
)
def test_which_rules_are_on(
    select: tuple[str, ...], ignore: tuple[str, ...], wanted: set[Rule]
) -> None:
    selection = Selection(select, ignore)
    rules = (UPDATE, UNSCALED, DEVICE, ADVICE, PREVIEW)
    assert {each for each in rules if selection.includes(each)} == wanted


def test_a_file_that_cannot_be_read_is_said_aloud_whatever_is_selected() -> None:
    assert Selection(("MP104",)).includes(UNREADABLE)
    assert Selection(ignore=("ALL",)).includes(UNREADABLE)
    assert Selection(ignore=("MP0",)).includes(UNREADABLE)
    assert not Selection(ignore=("MP001",)).includes(UNREADABLE)


def test_a_preview_rule_answers_to_its_own_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**catalogue(), PREVIEW.name: PREVIEW}
    monkeypatch.setattr("mpaudit.config.catalogue", lambda: known)
    assert Selection(("MP198",)).includes(PREVIEW)
    assert Selection(("made-up-preview",)).includes(PREVIEW)
    assert not Selection(("MP19", "MP1", "ALL")).includes(PREVIEW)


@pytest.mark.parametrize(
    ("selector", "hint"),
    [
        ("missing-scaler-updat", "did you mean 'missing-scaler-update'?"),
        ("MP1O4", "did you mean 'MP104'?"),
        ("al", "did you mean 'ALL'?"),
        ("F401", "see `mpaudit rules`"),
        ("XY97", "see `mpaudit rules`"),
        ("", "see `mpaudit rules`"),
        ("MP1040", "did you mean 'MP104'?"),
    ],
)
def test_an_unknown_selector_is_refused_with_the_nearest_name(selector: str, hint: str) -> None:
    with pytest.raises(MpauditError) as caught:
        Selection(ignore=(selector,))
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(f"--ignore: there is no rule {selector!r}; ")
    assert hint in str(caught.value)


def test_selectors_are_separated_by_commas_or_given_one_by_one() -> None:
    assert selectors(("MP104, MP2", "ALL")) == ("MP104", "MP2", "ALL")
    assert selectors(()) == ()


def test_nearest_names_the_likeliest_first() -> None:
    assert nearest("missing-scaler-updates")[0] == "missing-scaler-update"
    assert nearest("zzzzzzzz") == []


def test_without_selectors_no_page_is_read() -> None:
    code = (
        "from mpaudit.config import Selection; import mpaudit.rule as r; Selection(); "
        "assert r._all_own.cache_info().misses == r._own.cache_info().misses == 0"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

"""What a long check forgets on its way: the answers are the same however often it does."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

import pytest

from mpaudit.audit import check
from mpaudit.config import Selection
from mpaudit.source.engine import path as paths
from mpaudit.source.engine.path import SETTINGS, Identities

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["scripts", "projects", "clean"])
def test_the_same_is_found_with_a_sweep_after_every_file(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = Selection(("ALL",))
    before = check([FIXTURES / folder], everything)
    swept: list[int] = []
    asked_in_vain: list[int] = []
    sweep, description = Identities.sweep, Identities.description

    def counting(self: Identities, told: object) -> None:
        known = len(self._descriptions)
        sweep(self, told)  # type: ignore[arg-type]
        swept.append(known - len(self._descriptions))

    def asking(self: Identities, number: int) -> tuple[Hashable, ...]:
        found = description(self, number)
        if number > 0 and found is SETTINGS:
            asked_in_vain.append(number)
        return found

    monkeypatch.setattr(paths, "MAX_FRESH", 0)
    monkeypatch.setattr(Identities, "sweep", counting)
    monkeypatch.setattr(Identities, "description", asking)
    after = check([FIXTURES / folder], everything)
    assert after.findings == before.findings
    assert before.findings or folder == "clean"
    assert len(swept) > 50 and sum(swept) > 1000
    assert not asked_in_vain

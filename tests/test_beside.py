"""Files are followed from both ends by two processes; what is said is the same as by one."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_cache import FIXTURES, HELPER, USER
from test_cli import BAD
from test_parts import same, write

from mpaudit import audit, beside
from mpaudit.beside import _First
from mpaudit.following import Group

BIG = sorted((FIXTURES / "scripts").glob("*.py"))[:40]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "tree"
    (root / ".git").mkdir(parents=True)
    monkeypatch.chdir(root)
    monkeypatch.setattr("mpaudit.survey.LEAST", 2)
    monkeypatch.setattr(beside, "BUNDLE", 0)
    monkeypatch.setattr(beside, "PATIENCE", 30)
    return root


@pytest.fixture
def taken(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first folder takes the first process some time; the files that the second found counts for."""
    for script in BIG:
        write(f"a/{script.name}", script.read_text(encoding="utf-8"))
    found: list[str] = []
    accepted = _First._accepted

    def seen(self: _First, number: int) -> bool:
        before = len(self.groups)
        counts = accepted(self, number)
        found.extend(name for group in self.groups[before:] for name in group.names)
        return counts

    monkeypatch.setattr(_First, "_accepted", seen)
    return found


def test_files_are_cut_where_the_folder_changes(here: Path) -> None:
    names = ["x/top.py", "x/b/one.py", "x/b/deep/two.py", "x/c/three.py", "x/b/four.py"]
    folders = beside.by_folder([(name, "module") for name in names])
    assert [[name for name, _ in part] for part in folders] == [
        ["x/top.py"],
        ["x/b/one.py", "x/b/deep/two.py"],
        ["x/c/three.py"],
        ["x/b/four.py"],
    ]


def test_what_lies_apart_is_followed_apart(taken: list[str]) -> None:
    write("y/train.py", BAD)
    write("z/train.py", BAD)
    report = same()
    assert {"y/train.py", "z/train.py"} <= {each.span.filename for each in report.findings}
    assert taken.count("z/train.py") == 2  # without a cache, and with one


def test_what_calls_a_function_in_common_is_not(taken: list[str]) -> None:
    write("helper.py", HELPER)
    write("a/user.py", USER)
    write("y/user.py", USER)
    write("z/user.py", USER)
    write("z/alone.py", BAD)
    report = same()
    assert not any("user" in each.span.filename for each in report.findings)
    assert [each.span.filename for each in report.findings].count("z/alone.py") == 1
    assert not any("user" in name for name in taken)


def test_what_two_of_the_last_folders_call_is_not_either(taken: list[str]) -> None:
    """The step stands in the helper: who updates after it speaks for who does not."""
    step = BAD.replace("    scaler.step(optimizer)", "    finish(scaler, optimizer)")
    step = step.replace("import torch\n", "import torch\nfrom helper import finish\n", 1)
    write("helper.py", "def finish(scaler, optimizer):\n    scaler.step(optimizer)\n")
    write("z/idle.py", step)
    assert any(each.span.filename == "helper.py" for each in same().findings)
    write("y/keeping.py", step + "    scaler.update()\n")
    assert not any(each.span.filename == "helper.py" for each in same().findings)
    assert "y/keeping.py" not in taken


def test_where_it_shows_too_late_all_is_followed_again(
    taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[Sequence[Group]] = []
    look = beside.concerned

    def concerned(groups: Sequence[Group]) -> list[list[Group]]:
        found = look(groups)
        late.extend(found)
        return found

    monkeypatch.setattr(beside, "concerned", concerned)
    monkeypatch.setattr(_First, "_compare", lambda _: None)
    write("helper.py", HELPER)
    write("a/user.py", USER)
    write("z/user.py", USER)
    report = same()
    assert not any("user" in each.span.filename for each in report.findings)
    assert len(late) == 2


def test_the_second_may_fail(taken: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: object, files: set[str]) -> None:
        raise SystemExit

    monkeypatch.setattr(beside._Second, "touched", failing)
    write("z/train.py", BAD)
    assert any(each.span.filename == "z/train.py" for each in same().findings)
    assert taken == []


def test_the_second_may_end_with_the_table_in_its_hands(
    taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def last(self: beside._Table) -> int | None:
        self._lock.acquire()
        os._exit(1)

    monkeypatch.setattr(beside._Table, "last", last)
    # Wait for that.
    monkeypatch.setattr(beside._First, "touched", lambda self, _: self._accepted(-1))
    write("z/train.py", BAD)
    assert any(each.span.filename == "z/train.py" for each in same().findings)


def test_nobody_waits_for_long(taken: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "PATIENCE", 0)
    follow = beside.Batch.follow

    def slow(self: beside.Batch, turns: beside.Turns) -> list[Group]:
        if isinstance(turns, beside._Second):
            time.sleep(60)
        return follow(self, turns)

    monkeypatch.setattr(beside.Batch, "follow", slow)
    write("z/train.py", BAD)
    assert any(
        each.span.filename == "z/train.py" for each in audit.check([Path()], jobs=2).findings
    )
    assert taken == []

"""docs/report.md shows what a report shows: its script is run, and its excerpts are lines of that report."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from watched import ROOT, mpaudit  # noqa: E402

PAGE = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
SCRIPT = re.findall(r'```python title="energy.py"\n(.*?)```', PAGE, re.DOTALL)[0]
SHOWN = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the page shows the stand-in")


def plain(text: str) -> Iterator[str]:
    """Its lines without what differs from run to run: the overhead, and how wide a column is."""
    for line in text.splitlines():
        yield " ".join(re.sub(r"overhead .*", "overhead", line).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "energy.py").write_text(SCRIPT, encoding="utf-8")
    done = mpaudit(folder, "run", "-o", "energy.mpa", "energy.py")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_excerpts_are_lines_of_the_report(folder: Path) -> None:
    report = list(plain(mpaudit(folder, "report", "energy.mpa").stdout))
    *excerpts, applied = SHOWN
    assert len(excerpts) == 6
    missing = [line for part in excerpts for line in plain(part) if line not in report]
    assert missing == []
    assert applied.startswith("  " * 12 + "before")


def test_the_source_alone_shows_nothing(folder: Path) -> None:
    assert mpaudit(folder, "check", "energy.py").stdout.startswith("All checks passed!")


@pytest.mark.slow
def test_the_advice_helps_as_much_as_the_page_says(folder: Path) -> None:
    done = mpaudit(folder, "run", "--apply", "20", "-o", "applied.mpa", "energy.py")
    assert done.returncode == 0, done.stderr
    told = list(plain(done.stderr.replace("mpaudit:", "")))
    assert [line for line in plain(SHOWN[-1]) if line not in told] == []


def test_the_block_that_the_page_shows_is_what_was_applied(folder: Path) -> None:
    block = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[-1]
    body = "".join(f"        {line}\n" for line in block.splitlines())
    by_hand = re.sub(r" +return torch.log1p.*\n", lambda _: body, SCRIPT)
    (folder / "by_hand.py").write_text(by_hand + "print(loss.item())\n", encoding="utf-8")
    done = mpaudit(folder, "run", "-o", "by_hand.mpa", "by_hand.py")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 10
    report = mpaudit(folder, "report", "by_hand.mpa").stdout
    assert "where numbers went wrong" not in report or "defect" not in report

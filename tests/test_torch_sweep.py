"""Every fixture with torch under `mpaudit run --device cpu`: a run finds what is marked, nothing else."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
from tests.executed import Executor, Watched
from tests.test_proof import reason

FIXTURES = Path(__file__).parents[1] / "fixtures"
UNMARKED = {"activation-overflow", "no-mixed-precision"}
"""What a run alone can see, and what may be true of a script that shows another mistake."""

pytestmark = pytest.mark.slow


@functools.cache
def executor() -> Executor:
    """One process that lives as long as the tests."""
    return Executor("watched")


def scripts(folder: str) -> list[Path]:
    """The fixtures of a folder that use torch, alone."""
    texts = {path: path.read_text() for path in sorted((FIXTURES / folder).glob("*.py"))}
    imports = re.compile(r"^\s*(?:import|from) (tensorflow|keras|tf_keras)\b", re.MULTILINE)
    return [path for path, text in texts.items() if "torch" in text and not imports.search(text)]


def watched(path: Path) -> Watched:
    seen = executor().watch(path.read_text(), path)
    assert seen.faults == []
    return seen


@pytest.mark.parametrize("path", scripts("clean"), ids=lambda path: path.stem)
def test_a_run_of_a_correct_script_finds_nothing(path: Path) -> None:
    seen = watched(path)
    assert seen.findings == []
    if seen.error:
        missing = re.search("not installed|a framework is missing", seen.error)
        assert missing or reason(seen.error, path), seen.error


LIBRARY = re.compile(
    r"^\s*(?:import|from) (?:accelerate|(?:pytorch_)?lightning|transformers)\b", re.MULTILINE
)
"""What their own mistakes come to in a run has another name there: that of the order they break."""
ALONE = [path for path in scripts("scripts") if not LIBRARY.search(path.read_text())]


@pytest.mark.parametrize("path", ALONE, ids=lambda path: path.stem)
def test_a_run_of_a_mistake_finds_what_is_marked(path: Path) -> None:
    lines = path.read_text().splitlines()
    for rule, filename, row, message in watched(path).findings:
        if rule not in UNMARKED:
            assert Path(filename).name == path.name
            assert f"[{rule}]" in lines[row - 1], message

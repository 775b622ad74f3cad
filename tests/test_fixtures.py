"""Correct code stays silent; code marked `# error: [rule]` raises exactly its marks."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from mpaudit.audit import check
from mpaudit.config import Selection
from mpaudit.rule import catalogue

FIXTURES = Path(__file__).parents[1] / "fixtures"
CLEAN = sorted((FIXTURES / "clean").glob("*.py"))
MARKED = sorted((FIXTURES / "scripts").glob("*.py"))
PROJECTS = sorted(path for path in (FIXTURES / "projects").iterdir() if path.is_dir())
CLEAN_PROJECTS = [path for path in PROJECTS if path.name.startswith("clean_")]
MARKED_PROJECTS = [path for path in PROJECTS if not path.name.startswith("clean_")]
SOURCES = [*CLEAN, *MARKED, *(file for project in PROJECTS for file in project.rglob("*.py"))]

MARK = re.compile(r"# error: \[(?P<rules>[a-z0-9-]+(?:, [a-z0-9-]+)*)\]$")
Place = tuple[str, int, str]


def name_of(path: Path) -> str:
    """How a fixture is called in a test's id and in a failure: its path below `fixtures/`."""
    return path.relative_to(FIXTURES).as_posix()


def marks(path: Path) -> list[Place]:
    """(file, row, rule) of every mark in one file, whether the rule has a page or not."""
    rows = path.read_text(encoding="utf-8").splitlines()
    return [
        (name_of(path), row, rule)
        for row, line in enumerate(rows, start=1)
        if (mark := MARK.search(line))
        for rule in mark["rules"].split(", ")
    ]


def expected(path: Path) -> list[Place]:
    """The marks of a file or of a project's files, as far as their rules have pages."""
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    known = catalogue()
    return sorted(mark for file in files for mark in marks(file) if mark[2] in known)


def found(path: Path) -> list[Place]:
    """What `mpaudit check` finds with its default rules, and with those that are marked though off."""
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    marked = {rule for file in files for _, _, rule in marks(file)}
    on = {name for name, rule in catalogue().items() if rule.default or name in marked}
    return sorted(
        (name_of(Path(each.span.filename).resolve()), each.span.start.row, each.name)
        for each in check([path], Selection(select=tuple(sorted(on)))).findings
    )


@pytest.mark.parametrize("path", [*CLEAN, *CLEAN_PROJECTS], ids=name_of)
def test_correct_code_is_silent(path: Path) -> None:
    assert found(path) == []


@pytest.mark.parametrize("path", [*MARKED, *MARKED_PROJECTS], ids=name_of)
def test_marked_code_raises_exactly_its_marks(path: Path) -> None:
    assert found(path) == expected(path)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_fixture_parses_and_is_well_marked(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    ast.parse(text, filename=str(path))
    words = [row for row, line in enumerate(text.splitlines(), start=1) if "# error" in line]
    assert sorted({row for _, row, _ in marks(path)}) == words, "a mark is misspelt"


@pytest.mark.parametrize("path", [*CLEAN, *MARKED], ids=name_of)
def test_first_line_says_what_the_fixture_is_about(path: Path) -> None:
    kind = "Idiom" if path.parent.name == "clean" else "Mistake"
    assert path.read_text(encoding="utf-8").startswith(f"# {kind}: ")


def test_clean_fixtures_carry_no_mark_and_marked_ones_do() -> None:
    clean = [*CLEAN, *(file for project in CLEAN_PROJECTS for file in project.rglob("*.py"))]
    assert [mark for file in clean for mark in marks(file)] == []
    assert [name_of(file) for file in MARKED if not marks(file)] == []
    for project in MARKED_PROJECTS:
        assert any(marks(file) for file in project.rglob("*.py")), name_of(project)


def test_there_is_enough_of_everything() -> None:
    keras = [path for path in CLEAN if path.name.startswith("keras")]
    assert len(CLEAN) - len(keras) >= 65
    assert len(keras) >= 12
    assert len(MARKED_PROJECTS) >= 8
    scripts = Counter(rule for path in MARKED for rule in {rule for _, _, rule in marks(path)})
    seen_in_source = {
        name
        for name, rule in catalogue().items()
        if "source" in rule.seen_by and rule.code[2] in "1245" and rule.default
    }
    assert {name for name in seen_in_source if scripts[name] < 3} == set()

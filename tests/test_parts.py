"""Files are cut into parts and followed in several processes; what is said is the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_cache import FIXTURES, HELPER, IDLE, USER, said
from test_cli import BAD

from mpaudit import audit, parts
from mpaudit.cli import main
from mpaudit.cores import cores
from mpaudit.settings import Configuration


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "tree"
    (root / ".git").mkdir(parents=True)
    monkeypatch.chdir(root)
    monkeypatch.setattr("mpaudit.survey.LEAST", 2)
    return root


def write(name: str, text: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")


def shape(*names: str) -> list[list[str]]:
    found = parts.cut([(name, "module") for name in names], [str(Path.cwd())])
    return [[name for name, _ in part] for part in found]


def test_parts_are_folders_and_what_they_import(here: Path) -> None:
    write("one/a.py", "import torch\nimport os.path\n")
    write("one/deep/b.py", "")
    write("two/a.py", "from lib.x import y\n")
    write("lib/x.py", "y = 1\n")
    write("three/a.py", "import numpy, single as s\n")
    write("single.py", "")
    write("alone.py", "import nowhere\n")
    assert shape(
        "alone.py", "lib/x.py", "one/a.py", "one/deep/b.py", "single.py", "three/a.py"
    ) == [
        ["alone.py"],
        ["lib/x.py"],
        ["one/a.py", "one/deep/b.py"],
        ["single.py", "three/a.py"],
    ]
    assert shape("lib/x.py", "one/a.py", "two/a.py") == [["lib/x.py", "two/a.py"], ["one/a.py"]]


def test_several_processes_say_the_same(here: Path) -> None:
    shutil.copytree(FIXTURES / "projects", "projects")
    shutil.copytree(FIXTURES / "notebooks", "notebooks")
    for script in sorted((FIXTURES / "scripts").glob("*.py"))[:8]:
        write(f"scripts/{script.name}", script.read_text(encoding="utf-8"))
    for folder in (Path("projects"), Path()):
        one = audit.check([folder], Configuration())
        many = audit.check([folder], Configuration(), jobs=3)
        cached = audit.check([folder], Configuration(), cache=Path("cache"), jobs=3)
        again = audit.check([folder], Configuration(), cache=Path("cache"), jobs=3)
        assert said(one) == said(many) == said(cached) == said(again)
        assert len(one.findings) > 15


def test_a_wrong_cut_is_mended(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is a part of its own; those that read a file in common are followed again."""
    monkeypatch.setattr(parts, "cut", lambda roles, _: [[each] for each in roles])
    write("main.py", USER)
    write("other.py", USER)
    write("alone.py", BAD)
    for text in (HELPER, IDLE):
        write("helper.py", text + "\nimport torch.amp\n")
        assert said(audit.check([Path()], jobs=2)) == said(audit.check([Path()]))
        assert said(audit.check([Path()], cache=Path("cache"), jobs=2)) == said(
            audit.check([Path()])
        )


def test_the_option(here: Path) -> None:
    for name in ("one/a.py", "two/a.py", "three/a.py"):
        write(name, BAD)
    for jobs in ("1", "2", "9"):
        result = CliRunner().invoke(main, ["check", "--no-cache", "-j", jobs])
        assert result.stdout.count("MP104") == 3
    assert CliRunner().invoke(main, ["check", "--jobs", "0"]).exit_code == 2
    assert 1 <= cores() <= (os.cpu_count() or 1)

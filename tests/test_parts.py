"""Files are cut into parts and followed in several processes; what is said is the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_cache import FIXTURES, HELPER, IDLE, USER, said
from test_cli import BAD

from mpaudit import audit, meeting, parts
from mpaudit.cli import main
from mpaudit.cores import cores
from mpaudit.following import Group
from mpaudit.report import Report
from mpaudit.settings import Configuration


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "tree"
    (root / ".git").mkdir(parents=True)
    monkeypatch.chdir(root)
    for least in ("LEAST", "LEAST_APART"):
        monkeypatch.setattr(f"mpaudit.survey.{least}", 2)
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


def test_small_parts_share_a_process(here: Path) -> None:
    for name, size in zip("abcd", (parts.BUNDLE * 2, 9, 8, parts.BUNDLE - 12), strict=True):
        write(f"{name}.py", "#" * size)
    bundles = parts.bundled([[(f"{name}.py", "module")] for name in "abcd"])
    assert [[name for name, _ in each] for each in bundles] == [
        ["a.py"],
        ["b.py", "c.py"],
        ["d.py"],
    ]


@pytest.fixture
def again(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Each file is a part of its own; the names of those that are followed again, together."""
    found: list[list[str]] = []

    def seen(groups: Sequence[Group]) -> list[list[Group]]:
        heaps = meeting.concerned(groups)
        found.extend(sorted(name for group in heap for name in group.names) for heap in heaps)
        return heaps

    monkeypatch.setattr(parts, "cut", lambda roles, _: [[each] for each in roles])
    monkeypatch.setattr(parts, "concerned", seen)
    monkeypatch.setattr(parts, "BUNDLE", 0)
    return found


def same() -> Report:
    """Check in one process and in two, with a cache and without: the same is said."""
    one = audit.check([Path()])
    assert said(audit.check([Path()], jobs=2)) == said(one)
    assert said(audit.check([Path()], cache=Path("cache"), jobs=2)) == said(one)
    return one


def test_a_wrong_cut_is_mended(again: list[list[str]]) -> None:
    """Files that call a function in common are followed again; the others are not."""
    write("main.py", USER)
    write("other.py", USER)
    write("alone.py", BAD)
    together = [["helper.py", "main.py", "other.py"]]
    for text, found, followed in ((HELPER, 1, together * 2), (IDLE, 3, [])):
        write("helper.py", text + "\nimport torch.amp\n")
        again.clear()
        assert len(same().findings) == found
        assert again == followed  # once without a cache, once with one


def test_what_one_part_keeps_clears_another(again: list[list[str]]) -> None:
    """The step stands in the helper: who updates after it speaks for who does not."""
    step = BAD.replace("    scaler.step(optimizer)", "    finish(scaler, optimizer)")
    step = step.replace("import torch\n", "import torch\nfrom helper import finish\n", 1)
    write("helper.py", "def finish(scaler, optimizer):\n    scaler.step(optimizer)\n")
    write("idle.py", step)
    assert [each.span.filename for each in audit.check([Path()]).findings] == ["helper.py"]
    write("keeping.py", step + "    scaler.update()\n")
    assert not same().findings
    assert again
    assert {"idle.py", "keeping.py"} <= set(again[0])


def test_what_is_only_looked_up_is_not_followed_again(
    again: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Constants, and functions that nobody calls, are read by both parts: one group, followed once."""
    text = "EPOCHS = 3\nNAMES = ['a', 'b']\n\ndef unused(scaler):\n    scaler.update()\n"
    write("settings.py", text)
    user = BAD.replace("import torch\n", "import torch\nfrom settings import EPOCHS, NAMES\n", 1)
    user += "print(EPOCHS, NAMES)\n"
    for name in ("main.py", "other.py", "third.py"):
        write(name, user)
    write("alone.py", BAD)
    groups: list[Group] = []
    join = parts.joined
    monkeypatch.setattr(
        parts, "joined", lambda *given: groups.extend(found := join(*given)) or found
    )
    assert len(same().findings) == 4
    assert again == []
    assert [group.names for group in groups[:2]] == [
        ["alone.py"],
        ["main.py", "other.py", "third.py"],
    ]
    assert len(groups[1].problems) == 3
    write("settings.py", text.replace("3", "4"))
    assert len(same().findings) == 4  # the cache knows what all three have read


def test_an_object_that_two_parts_share_is_theirs_together(again: list[list[str]]) -> None:
    """One saves the state of the optimizer, the other that of the scaler: each alone would be wrong."""
    write(
        "made.py",
        "import torch\nmodel = torch.nn.Linear(2, 2).cuda()\n"
        "optimizer = torch.optim.SGD(model.parameters())\nscaler = torch.amp.GradScaler('cuda')\n",
    )
    start = "import torch\nfrom made import model, optimizer, scaler\n"
    write(
        "train.py",
        start + "for x in []:\n    optimizer.zero_grad()\n"
        "    with torch.autocast('cuda', dtype=torch.float16):\n        loss = model(x).sum()\n"
        "    scaler.scale(loss).backward()\n    scaler.step(optimizer)\n    scaler.update()\n"
        "torch.save({'optimizer': optimizer.state_dict()}, 'a')\n"
        "optimizer.load_state_dict(torch.load('a')['optimizer'])\n",
    )
    assert [each.code for each in audit.check([Path()]).findings] == ["MP112"]
    write("keep.py", start + "torch.save({'scaler': scaler.state_dict()}, 'b')\n")
    assert not same().findings
    assert again
    assert {"keep.py", "train.py"} <= set(again[0])


@pytest.mark.parametrize(
    "problem", [OSError(38, "Function not implemented"), ImportError("sem_open")]
)
def test_one_process_does_it_where_there_is_no_shared_memory(
    here: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refused)
    for name in ("one/a.py", "two/a.py", "three/a.py"):
        write(name, BAD)
    assert len(audit.check([Path()], jobs=2).findings) == 3


def test_the_option(here: Path) -> None:
    for name in ("one/a.py", "two/a.py", "three/a.py"):
        write(name, BAD)
    for jobs in ("1", "2", "9"):
        result = CliRunner().invoke(main, ["check", "--no-cache", "-j", jobs])
        assert result.stdout.count("MP104") == 3
    assert CliRunner().invoke(main, ["check", "--jobs", "0"]).exit_code == 2
    assert 1 <= cores() <= (os.cpu_count() or 1)

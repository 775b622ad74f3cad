"""Trees of syntax take much memory: they are parsed when they are needed, and not kept for longer."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_cli import BAD

from mpaudit.following import MODULE, Batch, Group, take
from mpaudit.source.text.project import Project

STEP = BAD.replace("    scaler.step(optimizer)", "    finish(scaler, optimizer)")
PACKAGE = """\
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .idle import *
    from .steps import *
else:
    import sys

    sys.modules[__name__] = object()
"""
IDLE = "import torch\n\n\ndef idle(model, x):\n    return torch.softmax(model(x), -1)\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, text: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")


def followed(*names: str) -> tuple[list[str], dict[str, bool]]:
    """The rules broken, and which files have a tree at the end."""
    project = Project()
    for path in Path().rglob("*.py"):
        project.add(path)
    batch = Batch(project, lambda _: False)
    for name in names:
        take(batch, name, MODULE)
    groups: list[Group] = batch.follow()
    read = {path for group in groups for path in group.read}
    modules = {Path(path).name: project.module(Path(path)) for path in read}
    kept = {name: "_tree" in vars(module) for name, module in modules.items() if module}
    return [problem.rule for group in groups for problem, _ in group.problems], kept


@pytest.mark.parametrize("updates", [False, True])
def test_what_is_declared_is_found_and_nothing_else_is_executed(here: Path, updates: bool) -> None:
    write("package/__init__.py", PACKAGE)
    write("package/idle.py", IDLE)
    more = "    scaler.update()\n" if updates else ""
    write("package/steps.py", f"def finish(scaler, optimizer):\n    scaler.step(optimizer)\n{more}")
    user = STEP.replace("import torch\n", "import torch\nfrom package import finish\n", 1)
    write("main.py", user)
    rules, kept = followed("main.py")
    assert rules == ([] if updates else ["missing-scaler-update"])
    assert kept["steps.py"]
    assert not kept["idle.py"]
    write("main.py", user.replace("from package import finish", "import package").replace(
        "finish(", "package.finish("
    ))  # fmt: skip
    assert followed("main.py")[0] == rules


def test_the_tree_of_a_file_that_was_looked_at_is_dropped(here: Path) -> None:
    """But not where others import it: its functions are known by their nodes."""
    write("alone.py", f"def run():\n{BAD}".replace("\n", "\n    "))
    write("helper.py", "import torch.amp\n\n\ndef finish(scaler, opt):\n    scaler.step(opt)\n")
    user = STEP.replace("import torch\n", "import torch\nfrom helper import finish\n", 1)
    write("main.py", user)
    rules, kept = followed("alone.py", "helper.py", "main.py")
    assert sorted(rules) == ["missing-scaler-update"] * 2
    assert kept["helper.py"]
    _, kept = followed("helper.py")
    assert not kept["helper.py"]


def test_a_file_that_cannot_be_read_says_so_once(here: Path) -> None:
    write("broken.py", "import torch.amp\ndef f(:\n")
    write("main.py", "import torch.amp\nfrom broken import f\nf(1)\n")
    for names in (("broken.py", "main.py"), ("main.py", "broken.py")):
        assert followed(*names)[0] == ["unparsable-source"]

"""What a project notes of the paths that an import asked for, on which a cached result rests."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpaudit.audit import check
from mpaudit.source.library.torch import bare
from mpaudit.source.text.module import Module
from mpaudit.source.text.project import Project


def importer(folder: Path, name: str) -> Module:
    """A file that is there to import something."""
    path = folder / name
    path.write_text("import elsewhere\n", encoding="utf-8")
    return Module.read(path)


def test_what_was_asked_for_is_noted_for_each_file_that_asks(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    project = Project()
    first, second = importer(tmp_path, "first.py"), importer(tmp_path, "second.py")
    assert project.find("elsewhere", first) is None
    assert project.find("elsewhere.inner", second) is None
    asked = project.noted(first).asked
    assert {str(tmp_path / "elsewhere.py"), str(tmp_path / "src" / "elsewhere")} <= asked
    assert project.noted(second).asked == asked


def test_a_folder_that_is_no_package_is_asked_for_anew_by_each_name(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "inner.py").write_text("LIMIT = 1\n", encoding="utf-8")
    project = Project()
    module = importer(tmp_path, "first.py")
    assert project.find("data", module) is None
    found = project.find("data.inner", module)
    assert found is not None
    assert Path(found.filename).name == "inner.py"
    assert str(tmp_path / "data" / "inner.py") in project.noted(module).read


PLAIN = """\
import torch
import helper

model = torch.nn.Linear(4, 2).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cuda")
for inputs, targets in helper.batches():
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(model(inputs), targets)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
"""
REGION = PLAIN.replace("    loss =", "    with torch.autocast('cuda'):\n        loss =")


def test_what_a_script_imports_is_read_for_low_precision_only_if_it_asks_for_none_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    reached = bare.reached

    def counting(module: Module, project: Project) -> list[Module] | None:
        asked.append(Path(module.filename).name)
        return reached(module, project)

    monkeypatch.setattr(bare, "reached", counting)
    (tmp_path / "pyproject.toml").touch()
    script, helper = tmp_path / "train.py", tmp_path / "helper.py"
    found = {}
    for name, text in {"plain": PLAIN, "region": REGION}.items():
        for kind, line in {"idle": "", "asking": "import torch\nhalf = torch.float16\n"}.items():
            script.write_text(text, encoding="utf-8")
            helper.write_text(f"{line}def batches():\n    return []\n", encoding="utf-8")
            asked.clear()
            found[name, kind] = [each.name for each in check([script]).findings]
            assert asked == (["train.py"] if name == "plain" else [])
    assert found["plain", "idle"] == ["scaler-without-autocast"]
    assert not any(names for where, names in found.items() if where != ("plain", "idle"))

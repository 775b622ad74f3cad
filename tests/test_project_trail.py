"""What a project notes of the paths that an import asked for, on which a cached result rests."""

from __future__ import annotations

from pathlib import Path

from mpaudit.source.module import Module
from mpaudit.source.project import Project


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

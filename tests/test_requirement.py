"""Which torch a project allows, from every file that may say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpaudit.source.text.requirement import Allowed, allowed_torch


def allowed(folder: Path, **files: str) -> Allowed:
    """What `folder` allows once it holds these files; underscores in names stand for dots."""
    (folder / ".git").mkdir()
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text, encoding="utf-8")
    return allowed_torch(folder / "train.py")


@pytest.mark.parametrize(
    ("line", "floor", "ceiling"),
    [
        ("torch>=2.4", (2, 4), None),
        ("torch >= 1.13.1, != 2.0.0  # why", (1, 13), None),
        ("torch==2.1.0+cu118", (2, 1), (2, 1)),
        ("torch==2.3.*", (2, 3), (2, 3)),
        ("torch~=2.3.1", (2, 3), (2, 3)),
        ("torch~=2.3", (2, 3), (2, 99)),
        ("torch<2.4", (0, 0), (2, 3)),
        ("torch<2.4.1", (0, 0), (2, 4)),
        ("torch>=2.0,<3", (2, 0), (2, 99)),
        ("torch[opt]>=2.5; python_version>'3.9'", (2, 5), None),
        ("torch (>=2.2)", (2, 2), None),
        ("torch>2", (2, 0), None),
        ("torch", None, None),
        ("torch @ https://example.org/torch-2.0.whl", None, None),
        ("torchvision>=0.8", None, None),
        ("torch-geometric>=2.0", None, None),
        ("# torch>=2.0", None, None),
        ("", None, None),
    ],
)
def test_requirement_lines(
    tmp_path: Path, line: str, floor: tuple[int, int] | None, ceiling: tuple[int, int] | None
) -> None:
    assert allowed(tmp_path, requirements_txt=f"numpy\n{line}\n") == Allowed(floor, ceiling)


@pytest.mark.parametrize(
    ("text", "floor"),
    [
        ('[project]\ndependencies = ["numpy", "torch>=2.4"]\n', (2, 4)),
        ('[project.optional-dependencies]\ntrain = ["torch>=2.1"]\n', (2, 1)),
        ('[dependency-groups]\ndev = ["torch>=2.2", {include-group = "x"}]\n', (2, 2)),
        ('[tool.poetry.dependencies]\ntorch = "^2.3"\n', (2, 3)),
        ('[tool.poetry.group.train.dependencies]\ntorch = {version = ">=2.0"}\n', (2, 0)),
        ('[tool.poetry.dependencies]\ntorch = [{version = "2.1"}, {version = "2.2"}]\n', (2, 1)),
        ('[tool.poetry.dependencies]\ntorch = "*"\n', None),
        ('[tool.poetry.dependencies]\ntorch = {git = "https://example.org"}\n', None),
        ("[project\n", None),
        ("project = 3\n", None),
    ],
)
def test_pyproject(tmp_path: Path, text: str, floor: tuple[int, int] | None) -> None:
    assert allowed(tmp_path, pyproject_toml=text).floor == floor


def test_setup_files(tmp_path: Path) -> None:
    for name, text in {
        "setup_cfg": "[options]\ninstall_requires =\n    numpy\n    torch>=1.9\n",
        "setup_py": "from setuptools import setup\nsetup(install_requires=['torch>=1.10'])\n",
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        assert allowed(folder, **{name: text}).floor in {(1, 9), (1, 10)}
    extra = tmp_path / "extra"
    extra.mkdir()
    text = "[options.extras_require]\nall = torch>=2.0; numpy\n"
    assert allowed(extra, setup_cfg=text).floor == (2, 0)


def test_the_most_generous_file_decides(tmp_path: Path) -> None:
    found = allowed(
        tmp_path,
        pyproject_toml='[project]\ndependencies = ["torch>=2.4"]\n',
        requirements_txt="torch==2.1.0\n",
    )
    assert found == Allowed(floor=(2, 1), ceiling=None)


def test_other_files_that_say_so(tmp_path: Path) -> None:
    found = allowed(tmp_path, environment_yml="dependencies:\n  - pytorch=2.1\n  - python\n")
    assert found == Allowed((2, 1), (2, 1))
    inner = tmp_path / "inner"
    (inner / "requirements").mkdir(parents=True)
    (inner / "requirements" / "runtime.txt").write_text("torch>=1.8\n", encoding="utf-8")
    assert allowed_torch(inner / "x.py").floor == (1, 8)


def test_the_nearest_folder_decides_up_to_the_repository(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("torch>=1.0\n", encoding="utf-8")
    repository = tmp_path / "repository"
    deep = repository / "pkg" / "train"
    deep.mkdir(parents=True)
    (repository / ".git").mkdir()
    assert allowed_torch(deep / "x.py").floor is None  # what lies above the repository says nothing
    other = repository / "other" / "deep"
    other.mkdir(parents=True)
    (repository / "other" / "requirements-dev.txt").write_text("torch>=2.5\n", encoding="utf-8")
    (repository / "setup.py").write_text("this is no Python\n", encoding="utf-8")
    assert allowed_torch(other / "x.py").floor == (2, 5)


def test_unreadable_files_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_bytes(b"\xff\xfe\x00torch>=2.0")
    assert allowed(tmp_path, setup_cfg="no section\n") == Allowed()

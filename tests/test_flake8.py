"""The plugin, run by the real flake8."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from test_cli import BAD, REPAIRED

pytest.importorskip("flake8", reason="in the extra `dev`")
if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HOUSE = Path(__file__).parents[1]
INSTALLED = any(each.name == "MP" for each in entry_points(group="flake8.extension"))
LOCAL = (
    ""
    if INSTALLED
    else "[flake8:local-plugins]\nextension =\n    MP = mpaudit.flake8_plugin:Checker\n"
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    Path(".flake8").write_text(f"[flake8]\nselect = MP\n{LOCAL}")
    return tmp_path


def flake8(*args: str, given: str | None = None) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-m", "flake8", *args],
        input=given,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HOUSE)},
    )
    assert result.stderr == ""
    assert result.returncode == (1 if result.stdout else 0)
    return result.stdout.splitlines()


def test_findings_are_shown_as_flake8_shows_its_own(here: Path) -> None:
    Path("a.py").write_text(BAD)
    Path("good.py").write_text(REPAIRED)
    Path("other.py").write_text("x = 1\n")
    (line,) = flake8(".")
    assert line.startswith("./a.py:11:5: MP104 missing-scaler-update: ")
    (line,) = flake8("--select=F,MP", "a.py")
    assert "MP104" in line
    assert flake8("--extend-ignore=MP1", "a.py") == []
    assert flake8("--per-file-ignores=a.py:MP104", "a.py") == []
    (line,) = flake8("-", given=BAD)
    assert line.startswith("stdin:11:5: MP104")


@pytest.mark.parametrize(
    "comment", ["# noqa: MP104", "# mpaudit: ignore[MP104] elsewhere", "# noqa"]
)
def test_comments_silence(here: Path, comment: str) -> None:
    step = "    scaler.step(optimizer)"
    Path("a.py").write_text(BAD.replace(step, f"{step}  {comment}"))
    assert flake8("a.py") == []


def test_mpaudits_configuration_counts(here: Path) -> None:
    Path("a.py").write_text(BAD)
    Path("sub").mkdir()
    Path("sub/a.py").write_text(BAD)
    Path("sub/mpaudit.toml").write_text('ignore = ["missing-scaler-update"]\n')
    assert [line.split(":")[0] for line in flake8("a.py", "sub/a.py")] == ["a.py"]


def test_other_files_and_odd_ones(here: Path) -> None:
    helper = "def finish(scaler):\n    scaler.update()\n"
    text = BAD.replace("import torch\n", "import torch\nfrom helper import finish\n", 1)
    Path("helper.py").write_text(helper)
    Path("main.py").write_text(text + "    finish(scaler)\n")
    assert flake8(".") == []
    Path("helper.py").write_text(helper.replace("scaler.update()", "pass"))
    (line,) = flake8(".")
    assert line.startswith("./main.py:12:5: MP104")
    Path("main.py").write_bytes(
        "# -*- coding: latin-1 -*-\n# caf\xe9\n".encode("latin-1") + BAD.encode()
    )
    (line,) = flake8("main.py")
    assert line.startswith("main.py:13:5: MP104")
    Path("main.py").write_text("import torch.amp\nx = (\n")
    assert flake8("main.py") == []  # flake8's own E999 says it
    assert any("E999" in line or "E902" in line for line in flake8("--select=MP,E9", "main.py"))


def test_the_plugin_is_announced() -> None:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    announced = project["entry-points"]["flake8.extension"]
    assert announced == {"MP": "mpaudit.flake8_plugin:Checker"}


@pytest.mark.slow
def test_an_installed_mpaudit_is_found(here: Path, tmp_path: Path) -> None:
    """Built and installed by pip, which fetches the build backend."""
    where = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(where)]
    subprocess.run([*command, str(HOUSE)], check=True, capture_output=True)
    Path(".flake8").unlink()
    Path("a.py").write_text(BAD)
    result = subprocess.run(
        [sys.executable, "-m", "flake8", "--select=MP", "a.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(where)},
    )
    assert result.stdout.startswith("a.py:11:5: MP104"), result.stderr

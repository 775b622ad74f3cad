"""The hooks for pre-commit and the action for GitHub, run as these run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_cli import BAD, REPAIRED

pytest.importorskip("pre_commit", reason="in the extra `dev`")
yaml = pytest.importorskip("yaml")

HOUSE = Path(__file__).parents[1]
ENTRY = f"{sys.executable} -m mpaudit"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    values = {**os.environ, "PYTHONPATH": str(HOUSE), **environment}
    return subprocess.run(words, capture_output=True, text=True, env=values)


def pre_commit(*args: str, home: Path) -> subprocess.CompletedProcess[str]:
    values = {"PRE_COMMIT_HOME": str(home), "PRE_COMMIT_COLOR": "never"}
    return run(sys.executable, "-m", "pre_commit", *args, **values)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a broken script, which is staged."""
    root = tmp_path / "repository"
    root.mkdir()
    monkeypatch.chdir(root)
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "MPAUDIT_OUTPUT_FORMAT"):
        monkeypatch.delenv(name, raising=False)
    subprocess.run(["git", "init", "-q", "."], check=True)
    for key, value in (("user.name", "a"), ("user.email", "a@example.org")):
        subprocess.run(["git", "config", key, value], check=True)
    Path("train.py").write_text(BAD)
    Path("notes.txt").write_text("autocast GradScaler\n")
    subprocess.run(["git", "add", "."], check=True)
    return root


def hooks() -> dict[str, dict[str, Any]]:
    found = yaml.safe_load((HOUSE / ".pre-commit-hooks.yaml").read_text())
    return {each["id"]: each for each in found}


def configure(hook: str, *args: str) -> None:
    """Use a published hook with the mpaudit of this environment in place of an installed one."""
    local = {
        **hooks()[hook],
        "language": "system",
        "entry": hooks()[hook]["entry"].replace("mpaudit", ENTRY, 1),
        "args": list(args),
    }
    del local["minimum_pre_commit_version"]
    configuration = {"repos": [{"repo": "local", "hooks": [local]}]}
    Path(".pre-commit-config.yaml").write_text(yaml.safe_dump(configuration))
    subprocess.run(["git", "add", "."], check=True)


def test_a_commit_with_a_mistake_is_stopped(repository: Path) -> None:
    home = repository.parent / "home"
    configure("mpaudit", "--output-format", "concise")
    result = pre_commit("install", home=home)
    assert result.returncode == 0, result.stdout
    result = run("git", "commit", "-qm", "x", PRE_COMMIT_HOME=str(home))
    assert result.returncode == 1
    assert "train.py:11:5: error[MP104] missing-scaler-update [*]: " in result.stderr
    Path("train.py").write_text(REPAIRED)
    subprocess.run(["git", "add", "."], check=True)
    result = run("git", "commit", "-qm", "x", PRE_COMMIT_HOME=str(home))
    assert result.returncode == 0, result.stderr


def test_the_fixing_hook_repairs_and_stops_once(repository: Path) -> None:
    home = repository.parent / "home"
    configure("mpaudit-fix")
    result = pre_commit("run", home=home)
    assert result.returncode == 1
    assert "files were modified by this hook" in result.stdout
    assert "1 × MP104 (missing-scaler-update)" in result.stdout
    assert Path("train.py").read_text() == REPAIRED
    subprocess.run(["git", "add", "."], check=True)
    result = pre_commit("run", home=home)
    assert result.returncode == 0, result.stdout
    assert "Passed" in result.stdout


def test_what_the_configuration_excludes_is_no_business_of_the_hook(repository: Path) -> None:
    home = repository.parent / "home"
    Path("mpaudit.toml").write_text('extend-exclude = ["train.py"]\n')
    configure("mpaudit")
    result = pre_commit("run", "--all-files", home=home)
    assert result.returncode == 0, result.stdout


def test_only_scripts_and_notebooks_are_handed_over(repository: Path) -> None:
    home = repository.parent / "home"
    subprocess.run(["git", "rm", "-qf", "--cached", "train.py"], check=True)
    Path("train.py").unlink()
    configure("mpaudit")
    result = pre_commit("run", "--all-files", home=home)
    assert "no files to check" in result.stdout
    Path("train.ipynb").write_text(
        '{"cells": [{"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": null,'
        ' "source": ["import torch.amp\\n", "x = ("]}], "metadata": {}, "nbformat": 4,'
        ' "nbformat_minor": 5}'
    )
    subprocess.run(["git", "add", "."], check=True)
    result = pre_commit("run", "--all-files", home=home)
    assert result.returncode == 1
    assert "MP001" in result.stdout


@pytest.mark.slow
def test_the_hook_is_installed_by_pre_commit(repository: Path) -> None:
    """From a clone of this working tree, by pip, which fetches click and the build backend."""
    home = repository.parent / "home"
    clone = repository.parent / "clone"
    subprocess.run(["git", "clone", "-q", str(HOUSE), str(clone)], check=True)
    for name in (".pre-commit-hooks.yaml", "pyproject.toml"):
        (clone / name).write_bytes((HOUSE / name).read_bytes())
    for name in ("user.name", "user.email"):
        subprocess.run(["git", "-C", str(clone), "config", name, "a@example.org"], check=True)
    subprocess.run(["git", "-C", str(clone), "add", "-A"], check=True)
    commit = ["git", "-C", str(clone), "commit", "-qm", "x", "--allow-empty"]
    subprocess.run(commit, check=True)
    result = run(
        *(sys.executable, "-m", "pre_commit", "try-repo", str(clone), "mpaudit", "--all-files"),
        PRE_COMMIT_HOME=str(home),
        PYTHONPATH="",
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "MP104" in result.stdout


# --- GitHub and GitLab


def test_the_action_is_one(tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="in the extra `dev`")
    tool = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    result = run(*tool, "vendor.github-actions", str(HOUSE / "action.yml"))
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_step_of_the_action_checks(repository: Path) -> None:
    """Its line is run by bash; pipx is stood in for by the mpaudit of this environment."""
    (step,) = yaml.safe_load((HOUSE / "action.yml").read_text())["runs"]["steps"]
    tools = repository.parent / "tools"
    tools.mkdir()
    script = (
        f'#!/bin/bash\n[ "$1 $2 $3" = "run --spec {HOUSE}" ] || exit 9\nshift 4\n{ENTRY} "$@"\n'
    )
    (tools / "pipx").write_text(script)
    (tools / "pipx").chmod(0o755)
    values = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "GITHUB_ACTION_PATH": str(HOUSE),
        "MPAUDIT_SRC": "train.py",
        "MPAUDIT_ARGS": "--select MP1",
    }
    assert set(step["env"]) == {"MPAUDIT_SRC", "MPAUDIT_ARGS"}
    result = run("bash", "-e", "-c", step["run"], **values)
    assert result.returncode == 1, result.stderr
    assert result.stdout.startswith("::error ")
    assert "MP104" in result.stdout

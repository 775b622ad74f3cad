"""Which files are looked at: as git ignores them, and as ruff excludes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpaudit.cli import main

FILES = [
    *(
        "a.py",
        "b.py",
        "train.ipynb",
        "pkg/__init__.py",
        "pkg/a.py",
        "pkg/deep/a.py",
        "pkg/deep/c.py",
    ),
    *("old/a.py", "old/new/b.py", "out/a.py", "docs/x.py", "docs/sub/y.py", "tests/test_a.py"),
    *("pkg/tests/test_b.py", "a b.py", "x[1].py", "data.py/inner.py", "venv/z.py", ".hidden/h.py"),
]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files, no repository yet, in which no configuration of the machine counts."""
    root = tmp_path / "tree"
    for name in FILES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}" if name.endswith("ipynb") else "")
    monkeypatch.chdir(root)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return root


def shown(*args: str) -> list[str]:
    """The files that a check would look at, below this folder."""
    result = CliRunner().invoke(main, ["check", "--show-files", *args])
    assert result.exit_code == 0, result.output
    here = f"{Path.cwd()}/"
    return sorted(line.removeprefix(here) for line in result.stdout.splitlines())


def ruffs(*args: str) -> list[str]:
    """What ruff would look at."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--show-files", *args]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    here = f"{Path.cwd()}/"
    found = (line.removeprefix(here) for line in text.splitlines())
    return sorted(each for each in found if each.endswith((".py", ".ipynb")))


PATTERNS = [
    *("a.py", "*.py", "pkg", "pkg/", "pkg/a.py", "pkg/*.py", "pkg/**/a.py", "**/deep", "./old"),
    *(
        "old/*",
        "{a,b}.py",
        "pkg/{a,deep/c}.py",
        "?.py",
        "[ab].py",
        "[!ab].py",
        "tests",
        "**/tests/*",
    ),
    *("a b.py", "nothing", "*/new", "test_*.py", "../tree/docs", "doc*", "docs/sub", "*.ipynb"),
]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("option", ["--exclude", "--extend-exclude"])
def test_exclusion_is_that_of_ruff(tree: Path, pattern: str, option: str) -> None:
    if "{" not in pattern:  # neither takes a comma there
        assert shown(option, pattern) == ruffs(option, pattern)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_so_is_that_of_files(tree: Path, pattern: str) -> None:
    """`extend-exclude` counts from the file it stands in."""
    Path("pkg/ruff.toml").write_text(f"extend-exclude = [{pattern!r}]")
    Path("pkg/mpaudit.toml").write_text(f"extend-exclude = [{pattern!r}]")
    assert shown("pkg") == ruffs("pkg")


@pytest.mark.parametrize(
    "paths", [("pkg/a.py",), ("pkg/deep",), ("pkg", "a.py"), ("old/new/b.py",)]
)
@pytest.mark.parametrize("pattern", ["pkg", "pkg/deep", "a.py", "old/*", "nothing"])
@pytest.mark.parametrize("force", [(), ("--force-exclude",)])
def test_what_is_named_is_excluded_by_force_only(
    tree: Path, paths: tuple[str, ...], pattern: str, force: tuple[str, ...]
) -> None:
    options = ("--extend-exclude", pattern, *force, *paths)
    assert shown(*options) == ruffs(*options)


def test_all_excluded_is_said_and_is_no_error(tree: Path) -> None:
    result = CliRunner().invoke(main, ["check", "--force-exclude", "--exclude", "pkg", "pkg/a.py"])
    assert (result.exit_code, result.stdout) == (0, "All checks passed!\n")
    assert result.stderr.startswith("warning: no Python file or notebook is left to be checked")
    Path("empty").mkdir()
    assert CliRunner().invoke(main, ["check", "empty"]).exit_code == 2


IGNORED = [
    *("a.py", "/a.py", "*.py", "pkg/", "/pkg/", "deep", "deep/", "pkg/deep", "pkg/deep/*.py"),
    *("**/a.py", "pkg/**", "pkg/**/c.py", "*.ipynb", "a\\ b.py", "a b.py", "x[[]1].py", "[ab].py"),
    *(
        "[!ab].py",
        "?.py",
        "# nothing",
        "\\#",
        "old/*\n!old/new",
        "old/*\n!old/new/\n",
        "*\n!*/\n!a.py",
    ),
    *(
        "old\n!old/a.py",
        "docs/*.py",
        "docs/**/y.py",
        "a.py   ",
        "data.py/",
        "data.py",
        "t*s/",
        "!a.py",
    ),
    *("**", "*", "/*\n!/pkg", "pkg/*/a.py", "test_?.py", "**/tests/**", ".hidden", "[", "p[a-m]g"),
]


def kept_by_git(root: Path) -> list[str]:
    command = ["git", "ls-files", "-z", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    return sorted(n for n in listed.split("\0") if n.endswith((".py", ".ipynb")))


@pytest.mark.parametrize("lines", IGNORED)
def test_gitignore_is_that_of_git(tree: Path, lines: str) -> None:
    subprocess.run(["git", "init", "-q", "."], check=True)
    Path(".gitignore").write_text(f"{lines}\n")
    assert shown("--exclude", ".git") == kept_by_git(tree)
    assert shown("--exclude", ".git", "--no-respect-gitignore") == sorted(FILES)


@pytest.mark.parametrize("lines", IGNORED)
def test_so_are_its_files_further_down_and_elsewhere(tree: Path, lines: str) -> None:
    subprocess.run(["git", "init", "-q", "."], check=True)
    Path(".gitignore").write_text("deep\n")
    Path("pkg/.gitignore").write_text(f"{lines}\n!deep/\n")
    Path(".git/info/exclude").write_text("old/new\n")
    assert shown("--exclude", ".git") == kept_by_git(tree)
    user = tree.parent / "config" / "git" / "ignore"
    user.parent.mkdir(parents=True)
    user.write_text("docs\n")
    assert shown("--exclude", ".git") == kept_by_git(tree)


def test_outside_of_a_repository_gitignore_means_nothing(tree: Path) -> None:
    Path(".gitignore").write_text("*.py\n")
    Path(".ignore").write_text("pkg\n")
    assert shown() == ruffs()
    assert "a.py" in shown()
    assert "pkg/a.py" not in shown()

"""Accepted findings stay accepted when lines shift and files move; what is new is reported."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from test_cli import BAD, REPAIRED

from mpaudit.cli import main

CLIP = """\
    scaler.scale(loss).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
"""
CLIPPED = REPAIRED.replace("    scaler.scale(loss).backward()\n", CLIP)


def call(*args: str | Path, text: str | None = None) -> Result:
    return CliRunner().invoke(main, ["check", *[str(each) for each in args]], input=text)


def found(*args: str | Path) -> list[str]:
    """`file:row code` of each finding."""
    result = call("--output-format", "pylint", *args)
    assert result.exit_code in (0, 1), result.stderr
    return [line.split("]")[0].replace(" [", " ") for line in result.stdout.splitlines()]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    for name in ("MPAUDIT_OUTPUT_FORMAT", "GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    return root


def write(name: str, text: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")


BASE = ("--baseline", "base.json")


def accept() -> None:
    result = call(*BASE, "--write-baseline")
    assert (result.exit_code, result.stdout) == (0, "All checks passed!\n")


def test_what_is_accepted_is_not_reported(here: Path) -> None:
    write("a.py", BAD)
    accept()
    result = call(*BASE)
    assert (result.exit_code, result.stdout) == (0, "All checks passed!\n")
    assert result.stderr == "1 finding accepted by the baseline.\n"
    assert found() == ["a.py:11: MP104"]
    write("b.py", CLIPPED)
    assert found(*BASE) == ["b.py:11: MP105"]
    assert call(*BASE).exit_code == 1


def test_the_configuration_can_name_it(here: Path) -> None:
    write("a.py", BAD)
    accept()
    write("mpaudit.toml", 'baseline = "base.json"\n')
    assert found() == found("a.py") == []
    write("sub/x.py", "")
    assert call("--write-baseline").stderr == "base.json now holds 1 finding.\n"


def test_without_a_name_it_is_called_by_default(here: Path) -> None:
    write("a.py", BAD)
    result = call("--write-baseline")
    assert (
        "mpaudit-baseline.json now holds 1 finding; --baseline mpaudit-baseline.json"
        in result.stderr
    )
    assert found("--baseline", "mpaudit-baseline.json") == []


@pytest.mark.parametrize(
    "after",
    [
        "# a line\n" * 30 + BAD,
        BAD.replace("\n", "\r\n"),
        f"if True:\n{''.join(f'    {line}' for line in BAD.splitlines(keepends=True))}",
        BAD.replace("    scaler.step", "    print(loss)\n    scaler.step"),
        "x = 1\n" + BAD + "print()\n",
    ],
    ids=["shifted", "line ends", "indented", "neighbour", "both ends"],
)
def test_lines_may_shift(here: Path, after: str) -> None:
    write("a.py", BAD)
    accept()
    write("a.py", after)
    assert found(*BASE) == []


def test_files_may_move(here: Path) -> None:
    write("a.py", BAD)
    write("keep.py", CLIPPED)
    accept()
    Path("new/place").mkdir(parents=True)
    Path("a.py").rename("new/place/train.py")
    assert found(*BASE) == []
    write("copy.py", BAD)  # a copy of what has moved is new: one entry accepts one finding
    assert len(found(*BASE)) == 1
    write("a.py", BAD)
    assert found(*BASE) == ["copy.py:11: MP104", "new/place/train.py:11: MP104"]


FUNCTION = """
def train_@(model, loader, optimizer):
    scaler = torch.amp.GradScaler("cuda")
    for inputs in loader:
        optimizer.zero_grad()
        with torch.autocast("cuda"):
            loss = model(inputs).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        print("@")
"""


def test_a_second_mistake_on_an_equal_line_is_new(here: Path) -> None:
    first, second = (FUNCTION.replace("@", each) for each in ("one", "two"))
    write("a.py", f"import torch\n{second}")
    accept()
    write("a.py", f"import torch\n{first}{second}")
    assert found() == ["a.py:10: MP104", "a.py:20: MP104"]
    assert found(*BASE) == ["a.py:10: MP104"]  # its neighbours are others
    write("a.py", f"import torch\n{second}{first}")
    assert found(*BASE) == ["a.py:20: MP104"]


def test_rows_are_not_in_the_file_and_it_is_sorted(here: Path) -> None:
    write("b.py", BAD)
    write("a.py", BAD)
    accept()
    before = Path("base.json").read_text()
    data = json.loads(before)
    assert [each["file"] for each in data["findings"]] == ["a.py", "b.py"]
    assert data["findings"][0]["code"] == "MP104"
    assert data["findings"][0]["text"] == "scaler.step(optimizer)"
    write("a.py", "# more\n\n" + BAD)
    accept()
    assert Path("base.json").read_text() == before


def test_what_is_gone_is_said_and_taken_out(here: Path) -> None:
    write("a.py", BAD)
    write("sub/b.py", BAD)
    accept()
    write("a.py", REPAIRED)
    assert "1 entry of the baseline is found no more" in call(*BASE).stderr
    assert "no more" not in call(*BASE, "sub").stderr  # a.py was not looked at
    assert call(*BASE, "--write-baseline", "sub").exit_code == 0
    assert len(json.loads(Path("base.json").read_text())["findings"]) == 2  # nor taken out
    accept()
    assert len(json.loads(Path("base.json").read_text())["findings"]) == 1
    assert call(*BASE).stderr == "1 finding accepted by the baseline.\n"


def test_paths_count_from_the_baseline(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("sub/a.py", BAD)
    accept()
    monkeypatch.chdir(here / "sub")
    assert found("--baseline", "../base.json") == []
    assert found("--baseline", here / "base.json", here / "sub" / "a.py") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no such baseline; --write-baseline makes it"),
        ("{", "this is no baseline"),
        ("[]", "this is no baseline"),
        ('{"version": 1, "findings": [{"file": "a.py"}]}', "this is no baseline"),
        (
            '{"version": 1, "findings": [{"file": 1, "rule": "", "text": "", "around": ""}]}',
            "no base",
        ),
        ('{"version": 7, "findings": []}', "of another mpaudit (version 7)"),
    ],
)
def test_a_broken_baseline_is_never_green(here: Path, text: str | None, said: str) -> None:
    write("a.py", BAD)
    if text is not None:
        write("base.json", text)
    result = call(*BASE)
    assert (result.exit_code, result.stdout, said in result.stderr) == (2, "", True)


def test_fixing_still_repairs_what_is_accepted(here: Path) -> None:
    write("a.py", BAD)
    accept()
    assert call(*BASE, "--fix").exit_code == 0
    assert Path("a.py").read_text() == REPAIRED


def test_contradictions(here: Path) -> None:
    write("a.py", BAD)
    assert call("--write-baseline", "--diff").exit_code == 2
    assert call("--write-baseline", "--add-ignore").exit_code == 2
    assert Path("a.py").read_text() == BAD


# --- what a branch adds


def git(*args: str) -> None:
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", *author, *args], check=True, capture_output=True)


@pytest.fixture
def branch(here: Path) -> Path:
    """A repository whose branch `topic` has left `main` with two mistakes in it."""
    write("a.py", BAD)
    write("lib/b.py", CLIPPED)
    git("init", "-q", "-b", "main", ".")
    git("add", ".")
    git("commit", "-qm", "base")
    git("checkout", "-qb", "topic")
    return here


def test_only_what_a_branch_adds_is_reported(branch: Path) -> None:
    result = call("--diff-base", "main")
    assert (result.exit_code, result.stdout) == (0, "All checks passed!\n")
    assert result.stderr.startswith("Left out: 2 findings of ")
    write("c.py", BAD)  # in no commit yet, nor known to git
    assert found("--diff-base", "main") == ["c.py:11: MP104"]
    git("add", ".")
    git("commit", "-qm", "more")
    assert found("--diff-base", "main") == ["c.py:11: MP104"]
    assert found("--diff-base", "main", "lib") == found("--diff-base", "main", "a.py") == []
    assert found("--diff-base", "HEAD") == []
    assert Path("a.py").read_text() == BAD
    status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True)
    assert status.stdout == ""


def test_what_main_has_mended_meanwhile_is_not_the_branchs(branch: Path) -> None:
    git("checkout", "-q", "main")
    write("a.py", REPAIRED)
    git("commit", "-qam", "mended")
    git("checkout", "-q", "topic")
    assert found("--diff-base", "main") == []


def test_moved_and_shifted_files(branch: Path) -> None:
    git("mv", "a.py", "lib/moved.py")
    write("lib/moved.py", "# shifted\n" + BAD)
    write("lib/b.py", "# shifted\n" + CLIPPED)
    assert found("--diff-base", "main") == []
    assert found("--diff-base", "main", "lib/moved.py") == found("--diff-base", "main", "lib") == []
    Path("lib/b.py").rename("b2.py")  # without a word to git
    assert found("--diff-base", "main") == []


def test_a_mistake_that_a_change_elsewhere_makes_is_added(branch: Path) -> None:
    helper = "def finish(scaler):\n    scaler.update()\n"
    write("helper.py", helper)
    text = BAD.replace("import torch\n", "import torch\nfrom helper import finish\n", 1)
    write("main.py", text + "    finish(scaler)\n")
    git("add", ".")
    git("commit", "-qm", "good")
    assert found("--diff-base", "HEAD", "main.py") == []
    write("helper.py", helper.replace("scaler.update()", "pass"))
    assert found("--diff-base", "HEAD") == ["main.py:12: MP104"]


def test_todays_configuration_counts_for_both(branch: Path) -> None:
    write("mpaudit.toml", 'extend-exclude = ["lib"]\nper-file-ignores = { "a.py" = ["MP104"] }\n')
    assert found() == found("--diff-base", "main") == []
    write("lib/mpaudit.toml", "")
    write("lib/c.py", BAD)
    assert found("--diff-base", "main", "--isolated") == ["lib/c.py:11: MP104"]


def test_standard_input(branch: Path) -> None:
    options = ("--diff-base", "main", "--output-format", "pylint", "-")
    result = call(*options, "--stdin-filename", "a.py", text="# shifted\n" + BAD)
    assert (result.exit_code, result.stdout) == (0, "")
    result = call(*options, "--stdin-filename", "a.py", text=CLIPPED)
    assert "MP105" in result.stdout
    assert call(*options, text=BAD).exit_code == 2


def test_what_git_does_not_know(
    branch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = call("--diff-base", "nowhere")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "git knows no commit 'nowhere'" in result.stderr
    assert "there is no file" not in call("--diff-base", "--all").stderr
    assert call("--diff-base", "--all").exit_code == 2
    git("checkout", "-q", "--orphan", "alone")
    git("commit", "-qm", "other history")
    result = call("--diff-base", "main")
    assert (result.exit_code, "have no common commit here" in result.stderr) == (2, True)
    write("../outside.py", BAD)
    assert call("--diff-base", "HEAD", "../outside.py").exit_code == 2
    monkeypatch.chdir(tmp_path)
    assert "not a git repository" in call("--diff-base", "main").stderr

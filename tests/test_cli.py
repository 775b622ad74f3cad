"""The command line: exit codes, one clear line for bad input, and nothing written unasked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpaudit import __version__
from mpaudit.cli import main

CLEAN = "x = 1\n"
BAD = """\
import torch

model = torch.nn.Linear(4, 2).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cuda")
for inputs, targets in [(torch.rand(8, 4), torch.rand(8, 2))] * 3:
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16):
        loss = torch.nn.functional.mse_loss(model(inputs.cuda()), targets.cuda())
    scaler.scale(loss).backward()
    scaler.step(optimizer)
"""
REPAIRED = f"{BAD}    scaler.update()\n"


def call(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in args])


def python(*args: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mpaudit", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    for name in ("NO_COLOR", "FORCE_COLOR", "MPAUDIT_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(name: str, text: str) -> Path:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")
    return Path(name)


def names() -> list[str]:
    return sorted(each.name for each in Path().iterdir())


# --- check


def test_clean(here: Path) -> None:
    write("a.py", CLEAN)
    for result in (call("check", "a.py"), call("check", "."), call("check")):
        assert (result.exit_code, result.stdout) == (0, "All checks passed!\n")


def test_findings(here: Path) -> None:
    write("sub/a.py", BAD)
    result = call("check", "--output-format", "concise", ".")
    assert result.exit_code == 1
    first, *_, last, tail = result.stdout.splitlines()
    assert first.startswith(f"{Path('sub', 'a.py')}:11:5: error[MP104] missing-scaler-update [*]: ")
    assert (first, last, tail) == (first, "Found 1 error.", "[*] 1 fixable with `--fix`.")
    full = call("check", "sub/a.py")
    assert "11 |     scaler.step(optimizer)" in full.stdout
    assert "= fix:" in full.stdout
    assert "\x1b" not in full.stdout


def test_json(here: Path) -> None:
    write("a.py", BAD)
    result = call("check", "--output-format", "json", "a.py")
    assert result.exit_code == 1
    (found,) = json.loads(result.stdout)
    assert (found["code"], found["filename"]) == ("MP104", str(here / "a.py"))
    assert found["location"] == {"row": 11, "column": 5}


def test_select_and_ignore(here: Path) -> None:
    write("a.py", BAD)
    assert call("check", "--select", "MP2", "a.py").exit_code == 0
    assert call("check", "--select", "MP2,MP104", "a.py").exit_code == 1
    assert call("check", "--ignore", "missing-scaler-update", "a.py").exit_code == 0
    assert call("check", "--select", "ALL", "--ignore", "MP1,MP8", "a.py").exit_code == 0


def test_suppressed(here: Path) -> None:
    step = "    scaler.step(optimizer)"
    write("a.py", BAD.replace(step, f"{step}  # mpaudit: ignore[missing-scaler-update] elsewhere"))
    assert call("check", "a.py").exit_code == 0
    write("a.py", BAD.replace(step, f"{step}  # mpaudit: ignore"))
    result = call("check", "a.py")
    assert result.exit_code == 1
    assert "warning: " in result.stderr
    assert ":11: `# mpaudit: ignore` silences nothing: name the rules" in result.stderr


def test_fix(here: Path) -> None:
    write("a.py", BAD)
    result = call("check", "--fix", "a.py")
    assert (result.exit_code, result.stdout) == (0, "Found 1 error (1 fixed, 0 remaining).\n")
    assert Path("a.py").read_text() == REPAIRED
    assert names() == ["a.py"]


def test_fix_keeps_what_is_not_its_business(here: Path) -> None:
    data = b"\xef\xbb\xbf" + BAD.replace("\n", "\r\n").encode()
    Path("a.py").write_bytes(data)
    Path("a.py").chmod(0o755)
    assert call("check", "--fix", "a.py").exit_code == 0
    assert Path("a.py").read_bytes() == b"\xef\xbb\xbf" + REPAIRED.replace("\n", "\r\n").encode()
    assert Path("a.py").stat().st_mode & 0o777 == 0o755


def test_diff_writes_nothing(here: Path) -> None:
    write("a.py", BAD)
    result = call("check", "--diff", "a.py")
    assert result.exit_code == 1
    assert result.stdout.startswith("--- a.py\n+++ a.py\n@@ ")
    assert result.stdout.endswith("+    scaler.update()\n")
    assert result.stderr == "Would fix 1 error.\n"
    assert Path("a.py").read_text() == BAD
    if shutil.which("patch"):
        subprocess.run(["patch", "-p0"], input=result.stdout, text=True, check=True)
        assert Path("a.py").read_text() == REPAIRED
    write("a.py", REPAIRED)
    result = call("check", "--diff", "a.py")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "No errors would be fixed.\n"


def test_diff_of_a_file_nobody_can_read_is_not_clean(here: Path) -> None:
    write("a.py", "import torch\ntorch.amp.autocast(\n")
    result = call("check", "--diff", "a.py")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error[MP001] unparsable-source" in result.stderr


def test_a_file_nobody_can_read_is_a_finding(here: Path) -> None:
    write("a.py", "import torch\nwith torch.autocast('cuda')\n    pass\n")
    result = call("check", "--select", "MP104", "--output-format", "concise", "a.py")
    assert result.exit_code == 1
    assert "a.py:2:" in result.stdout
    assert "error[MP001] unparsable-source" in result.stdout


def test_a_binary_file_is_a_finding(here: Path) -> None:
    Path("a.py").write_bytes(b"import torch\ntorch.autocast('cuda')\n\xff\xfe\x00\n")
    result = call("check", "a.py", "--output-format", "json")
    (found,) = json.loads(result.stdout)
    assert (result.exit_code, found["code"], found["location"]["row"]) == (1, "MP001", 3)


def test_colours_only_where_they_are_wanted(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.py", BAD)
    assert "\x1b[" not in python("check", "a.py").stdout
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in python("check", "a.py").stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in python("check", "a.py").stdout


def test_the_frameworks_are_never_imported(here: Path) -> None:
    write("a.py", BAD)
    for heavy in ("torch", "tensorflow", "keras"):
        write(f"shadow/{heavy}.py", f"raise RuntimeError('{heavy} was imported')\n")
    paths = os.pathsep.join([str(here / "shadow"), os.environ["PYTHONPATH"]])
    result = python("check", "a.py", env={**os.environ, "PYTHONPATH": paths})
    assert (result.returncode, result.stderr) == (1, "")


# --- bad input


def refused(result: Result | subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on stderr, nothing on stdout, exit code 2."""
    code = result.exit_code if isinstance(result, Result) else result.returncode
    assert code == 2, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("mpaudit: ")
    assert "internal error" not in line
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["check", "gone.py"], ["gone.py"]),
        (["check", "a.py", "gone"], ["gone"]),
        (["check", "--fix", "gone.py"], ["gone.py"]),
        (["check", "--diff", "gone.py"], ["gone.py"]),
        (["check", "empty"], ["empty", "Python"]),
        (["check", "--select", "MP9999", "a.py"], ["--select", "MP9999"]),
        (["check", "--ignore", "missing-scaler-updat", "a.py"], ["'missing-scaler-update'"]),
        (["check", "--select", "", "a.py"], ["''"]),
        (["check", "--outputformat", "json"], ["--outputformat", "mpaudit check --help"]),
        (["check", "--output-format", "yaml"], ["yaml", "concise"]),
        (["check", "--target-keras", "4"], ["--target-keras", "4"]),
        (["check", "--target-torch", "two"], ["--target-torch", "'two'", "2.4"]),
        (["chekc"], ["chekc", "mpaudit --help"]),
        (["explain", "no-such-rule"], ["no-such-rule"]),
        (["explain", "missing-scaler-updates"], ["missing-scaler-update,"]),
        (["explain"], ["mpaudit explain --help"]),
        (["explain", ""], ["''"]),
        (["run", "gone.py"], ["gone.py"]),
        (["run", "a.ipynb"], ["a.ipynb is a notebook", "nbconvert --to script"]),
        (["run", "-m", "no_such_module_at_all"], ["no_such_module_at_all"]),
        (["run"], ["which script"]),
        (["run", "--device", "tpu", "a.py"], ["tpu", "cuda"]),
        (["run", "--bogus", "a.py"], ["--bogus"]),
        (["report", "gone.mpa"], ["gone.mpa"]),
        (["report", "a.py"], ["a.py", "trace"]),
        (["report", "empty"], ["empty", ".mpa"]),
        (["report", "--format", "json", "zero.mpa"], ["zero.mpa"]),
    ],
)
def test_bad_input_is_refused_in_one_line(here: Path, args: list[str], words: list[str]) -> None:
    write("a.py", CLEAN)
    write("zero.mpa", "")
    Path("empty").mkdir()
    before = names()
    refused(call(*args), *words)
    assert names() == before


@pytest.mark.parametrize(
    "args", [["check", "gone.py"], ["explain", "no-such-rule"], ["report", "a.py"], ["run", "x.py"]]
)
def test_bad_input_is_refused_in_a_process_of_its_own(here: Path, args: list[str]) -> None:
    write("a.py", CLEAN)
    refused(python(*args))
    assert names() == ["a.py"]


def test_no_command_shows_the_help(here: Path) -> None:
    result = call()
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Commands:" in result.stderr


def test_an_internal_error_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(words: str) -> list[object]:
        raise ZeroDivisionError("on\npurpose")

    monkeypatch.setattr("mpaudit.explain.look_up", broken)
    result = call("explain", "MP104")
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("mpaudit: internal error (ZeroDivisionError: on purpose); please report")
    monkeypatch.setenv("MPAUDIT_DEBUG", "1")
    assert "Traceback" in call("explain", "MP104").stderr


def test_a_reader_that_leaves_is_no_error(here: Path) -> None:
    command = [sys.executable, "-m", "mpaudit", "rules", "--output-format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_a_terminal_without_the_letters_gets_escapes(here: Path) -> None:
    write("混.py", BAD)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = python("check", "混.py", env=environment)
    assert (result.returncode, result.stderr) == (1, "")
    assert "\\u6df7.py:11:5" in result.stdout


# --- the rest


def test_version() -> None:
    assert call("--version").stdout == f"mpaudit {__version__}\n"
    assert call("--version").exit_code == call("--help").exit_code == 0


def test_importing_the_command_line_is_light() -> None:
    code = (
        "import mpaudit.cli, sys; own = {m for m in sys.modules if m.startswith('mpaudit.')}; "
        "assert own <= {f'mpaudit.{name}' for name in "
        "('cli', 'errors', 'options', 'output_format')}, own; "
        "assert not {'torch', 'tensorflow', 'keras', 'sqlite3', 'difflib'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize(
    "words",
    [
        "MP104",
        "mp104",
        "missing-scaler-update",
        "step() has already been called since the last update()",
        "STEP() has already  been\ncalled since the last update().",
        "RuntimeError: step() has already been called since the last update()",
        "Traceback (most recent call last):\n  ...\nRuntimeError: step() has already been called "
        "since the last update().\n",
        "has already been called since the last",
    ],
)
def test_explain_knows_codes_names_and_error_texts(words: str) -> None:
    result = call("explain", words)
    assert result.exit_code == 0
    assert result.stdout.startswith("MP104 missing-scaler-update: ")


def test_explain_as_json_and_markdown() -> None:
    data = json.loads(call("explain", "MP104", "--output-format", "json").stdout)
    assert data["name"] == "missing-scaler-update"
    page = call("explain", "MP104", "--output-format", "markdown").stdout
    assert page.startswith("# missing-scaler-update (MP104)\n")


def test_rules() -> None:
    assert "MP104  missing-scaler-update " in call("rules").stdout
    data = json.loads(call("rules", "--output-format", "json").stdout)
    assert "MP104" in [each["code"] for each in data]
    assert call("rules", "--output-format", "markdown").stdout.startswith("| code | name |")

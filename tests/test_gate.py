"""The gate: what it lets pass is what the check itself would have passed, in the same words."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from mpaudit import gate
from mpaudit.cli import main

PLAIN = '"""No AMP here."""\nimport math\n\nprint(math.pi)\n'
AMP = "import torch\n\nscaler = torch.cuda.amp.GradScaler()\n"


def answer(*arguments):
    done = CliRunner().invoke(main, ["check", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder without a configuration, unlike that of this repository."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def asked(monkeypatch):
    """What the gate was asked, and said."""
    said = []
    passes = gate.passes
    monkeypatch.setattr(gate, "passes", lambda *a: said.append(passes(*a)) or said[-1])
    return said


def write(folder, text=PLAIN, name="a.py"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "options", [(), ("--force-exclude",), ("--fix", "--show-fixes", "--force-exclude"), ("-n",)]
)
def test_what_passes_would_have_passed(tmp_path, asked, monkeypatch, options):
    paths = [write(tmp_path), write(tmp_path, "x = 1\r\n", "b/c.py")]
    fast = answer(*options, *paths)
    assert asked == [True]
    monkeypatch.setattr(gate, "passes", lambda *_: False)
    assert fast == answer(*options, *paths)
    assert fast == (0, "All checks passed!\n", "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", AMP),
        ("a.py", "def broken(:\n"),
        ("a.py", b"caf\xe9 = 1\n"),
        ("a.py", "x = 1\0\n"),
        ("a.py", PLAIN + "# mpaudit: ignore[missing-scaler-update]\n"),
        ("a.py", PLAIN + "x = 1  # noqa: MP104\n"),
        ("a.py", 'import DeepSpeed\nNAME = "ds_config.json"\n'),
        ("a.ipynb", '{"cells": []}'),
        ("ds_config.json", "{}"),
    ],
)
def test_what_may_have_a_finding_does_not_pass(tmp_path, asked, name, text):
    answer(write(tmp_path), write(tmp_path, text, "there/" + name))
    assert asked == [False]


@pytest.mark.parametrize("name", [".mpaudit.toml", "mpaudit.toml", "pyproject.toml"])
def test_where_a_configuration_is_near_nothing_passes(tmp_path, asked, name):
    path = write(tmp_path, name="inner/a.py")
    (tmp_path / name).write_text("[tool.mpaudit]\n" if name == "pyproject.toml" else "nonsense = 1")
    answer(path)
    assert asked == [False]


def test_the_configuration_of_others_is_none(tmp_path, asked):
    path = write(tmp_path, name="inner/a.py")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n')
    assert answer(path)[0] == 0
    assert asked == [True]


def test_the_users_own_configuration_counts(tmp_path, asked, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    write(tmp_path, 'output-format = "json"\n', "own/mpaudit/mpaudit.toml")
    assert answer(write(tmp_path))[1] == "[]\n"
    assert asked == [False]


@pytest.mark.parametrize(
    "options",
    [("--select", "MP9999"), ("--output-format", "json"), ("--statistics",), ("--add-ignore",)],
)
def test_options_that_say_something_else_do_not_pass(tmp_path, asked, options):
    answer(*options, write(tmp_path))
    assert asked == [False]


def test_what_is_excluded_by_force_does_not_pass(tmp_path, asked):
    code, _, said = answer("--force-exclude", write(tmp_path, name="build/a.py"))
    assert asked == [False]
    assert code == 0
    assert "excluded" in said


@pytest.mark.parametrize("name", ["missing.py", "folder.py"])
def test_what_is_no_file_does_not_pass(tmp_path, asked, name):
    (tmp_path / "folder.py").mkdir()
    code, _, said = answer(tmp_path / name)
    assert asked == [False]
    assert code == 2
    assert name in said


def test_a_file_that_passes_loads_nothing_else(tmp_path):
    path = write(tmp_path)
    check = (
        "import sys; from mpaudit.cli import main\n"
        f"try: main(['check', {str(path)!r}])\n"
        "except SystemExit as end: code = end.code\n"
        "own = sorted(name for name in sys.modules if name.startswith('mpaudit.'))\n"
        "assert own == ['mpaudit.cli', 'mpaudit.default', 'mpaudit.errors', 'mpaudit.gate', "
        "'mpaudit.options', 'mpaudit.output_format', 'mpaudit.source', "
        "'mpaudit.source.text', 'mpaudit.source.text.discovery'], own\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "All checks passed!\n"), done.stderr

"""`run` and `report` from the outside: a script under watch, and what its trace and source say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpaudit.cli import main

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
LOOP = BAD.replace("import torch\n", "")
ASIDE = f"""\
import sys


def train():
    import torch

{"".join(f"    {line}" if line.strip() else line for line in LOOP.splitlines(keepends=True))}

print(sys.argv[1:])
sys.exit(3)
"""  # trains nothing: what it would do is for the static pass alone


def call(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mpaudit", *args], capture_output=True, text=True)


def findings(trace: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(call("report", trace, "--format", "json").stdout)[
        "findings"
    ]
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    return tmp_path


def write(name: str, text: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")


def test_everything_after_the_script_is_the_scripts(here: Path) -> None:
    write("a.py", "import sys\nprint(sys.argv, __name__)\nsys.exit(3)\n")
    result = python("run", "-o", "t.mpa", "a.py", "--fix", "-o", "x", "--", "-m", "--help")
    assert result.returncode == 3
    assert result.stdout == "['a.py', '--fix', '-o', 'x', '--', '-m', '--help'] __main__\n"
    assert sorted(each.name for each in here.iterdir()) == ["a.py", "t.mpa"]


@pytest.mark.parametrize(
    "option", [["-m", "pkg.mod"], ["-mpkg.mod"], ["--device", "cpu", "-m", "pkg.mod"]]
)
def test_everything_after_the_module_is_the_modules(here: Path, option: list[str]) -> None:
    write("pkg/__init__.py", "")
    write("pkg/mod.py", "import sys\nprint(sys.argv[1:], __package__)\n")
    result = python("run", "-o", "t.mpa", *option, "--fix", "-o", "x", "--", "y")
    assert (result.returncode, result.stdout) == (0, "['--fix', '-o', 'x', '--', 'y'] pkg\n")


def test_run_fix_repairs_a_copy(here: Path) -> None:
    write("a.py", ASIDE)
    result = python("run", "--fix", "-o", "t.mpa", "a.py")
    assert result.returncode == 3
    assert "mpaudit: runs a corrected copy of a.py: missing-scaler-update\n" in result.stderr
    assert Path("a.py").read_text() == ASIDE
    assert findings("t.mpa") == []


def test_run_fix_with_nothing_to_repair_says_so(here: Path) -> None:
    write("a.py", "print('ran')\n")
    result = python("run", "--fix", "-o", "t.mpa", "a.py")
    assert (result.returncode, result.stdout) == (0, "ran\n")
    assert "mpaudit: nothing to fix in a.py\n" in result.stderr


def test_report_shows_what_the_source_of_the_run_shows(here: Path) -> None:
    write("a.py", ASIDE)
    assert python("run", "-o", "t.mpa", "a.py").returncode == 3
    write("a.py", "x = 1\n")  # the trace keeps what ran
    result = call("report", "t.mpa")
    assert result.exit_code == 0
    assert "exit code 3" in result.stdout
    assert "scaler.step(optimizer)" in result.stdout
    (found,) = findings("t.mpa")
    assert (found["code"], found["confirmed"], found["moment"]) == ("MP104", False, None)


def test_a_silenced_finding_is_silenced_in_a_report(here: Path) -> None:
    step = "scaler.step(optimizer)"
    write("a.py", ASIDE.replace(step, f"{step}  # mpaudit: ignore[MP104]"))
    python("run", "-o", "t.mpa", "a.py")
    assert findings("t.mpa") == []


def test_report_into_a_file(here: Path) -> None:
    write("a.py", "print()\n")
    python("run", "-o", "t.mpa", "a.py")
    result = call("report", "t.mpa", "--format", "json", "-o", "r.json")
    assert (result.exit_code, result.stdout) == (0, "")
    assert json.loads(Path("r.json").read_text())["meta"]["exit_code"] == 0
    result = call("report", "t.mpa", "-o", "no/such/folder.txt")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("mpaudit: no/such/folder.txt: the report cannot be written")


def test_what_the_run_and_the_source_both_show_is_confirmed(here: Path) -> None:
    pytest.importorskip("torch")
    write("a.py", BAD.replace('"cuda"', '"cpu"').replace(".cuda()", ""))
    result = python("run", "-o", "t.mpa", "a.py")
    assert result.returncode == 1
    assert "mpaudit: MP104 missing-scaler-update explains this" in result.stderr
    (found,) = (each for each in findings("t.mpa") if each["code"] == "MP104")
    assert found["confirmed"] is True
    assert found["location"]["row"] == 11
    assert found["moment"]["rank"] == 0
    assert found["fix"]["applicability"] == "safe"
    assert "confirmed: the source and the run both show it" in call("report", "t.mpa").stdout


LIBRARY = """\
import torch


def update(scaler, optimizer, model):
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()


def unused():
    return torch.cuda.amp.GradScaler()
"""
TRAIN = BAD.replace("import torch\n", "import torch\nimport library\n").replace(
    "    scaler.step(optimizer)\n", "    library.update(scaler, optimizer, model)\n"
)


def test_what_is_imported_is_checked_as_the_script_is(here: Path) -> None:
    write("library.py", LIBRARY)
    write("a.py", TRAIN)
    assert python("run", "-o", "t.mpa", "a.py").returncode == 0
    found = {str(each["name"]): each for each in findings("t.mpa")}
    assert set(found) == {"clip-before-unscale", "deprecated-torch-amp"}
    assert found["clip-before-unscale"]["confirmed"]
    assert not found["deprecated-torch-amp"]["confirmed"]
    assert {Path(str(each["filename"])).name for each in found.values()} == {"library.py"}


def test_of_what_is_no_longer_what_was_imported_the_run_alone_tells(here: Path) -> None:
    write("library.py", LIBRARY)
    write("a.py", TRAIN)
    assert python("run", "-o", "t.mpa", "a.py").returncode == 0
    write("library.py", LIBRARY + "\n\n# more\n")
    (found,) = findings("t.mpa")
    assert (found["name"], found["confirmed"]) == ("clip-before-unscale", False)


def test_an_imported_file_silences_its_findings(here: Path) -> None:
    text = LIBRARY.replace("GradScaler()\n", "GradScaler()  # mpaudit: ignore[MP701] old torch\n")
    write("library.py", text.replace("1.0)\n", "1.0)  # noqa: MP105\n"))
    write("a.py", TRAIN)
    assert python("run", "-o", "t.mpa", "a.py").returncode == 0
    assert findings("t.mpa") == []


def test_the_settings_of_a_project_hold_for_the_report_of_a_run(here: Path) -> None:
    write("library.py", LIBRARY)
    write("a.py", TRAIN)
    assert python("run", "-o", "t.mpa", "a.py").returncode == 0
    write(
        "mpaudit.toml", 'severity = { MP105 = "warning" }\nper-file-ignores = { "lib*" = ["MP7"] }'
    )
    (found,) = findings("t.mpa")
    assert (found["name"], found["severity"]) == ("clip-before-unscale", "warning")
    write("mpaudit.toml", 'select = ["MP7"]')
    found = {str(each["name"]) for each in findings("t.mpa")}
    assert found == {"clip-before-unscale", "deprecated-torch-amp"}  # the first was really seen
    write("mpaudit.toml", 'exclude = ["lib*"]\nignore = ["MP105"]')
    assert findings("t.mpa") == []
    write("mpaudit.toml", 'ignor = ["MP105"]')
    told = call("report", "t.mpa")
    assert told.exit_code == 0
    assert "clip-before-unscale" in told.stdout
    assert "warning: the settings are not heeded: " in told.stderr
    assert "ignor" in told.stderr

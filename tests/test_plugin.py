"""Rules of a project's own: the example of docs/plugins.md, and what can go wrong with a plugin."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import BAD, python, refused

from mpaudit.output_format import CHECK_FORMATS

ROOT = Path(__file__).parents[1]
FILES = re.compile(r'^(`{3,})\w+ title="([^"]+)"\n(.*?)^\1$', re.MULTILINE | re.DOTALL)
TRAIN = """\
import torch
import acme as a
from acme import FastTrainer

def clip(model):
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)

model = torch.nn.Linear(2, 2).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cuda")
for x in [torch.rand(8, 2)] * 3:
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16):
        loss = model(x.cuda()).sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)  # unclipped
    scaler.update()
for x in [torch.rand(8, 2)] * 3:
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16):
        loss = model(x.cuda()).sum()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    clip(model)
    scaler.step(optimizer)
    scaler.update()
t = a.FastTrainer()  # retired
"""
STEP, RETIRED = 16, 27
PAGE = '# house-rule (HOUSE1)\n\n```toml\nsummary = "ours"\nseverity = "error"\n```\n\nProse.\n'
MODULE = """\
import ast
from mpaudit.plugin import Plugin, Problem
def check(module):
    for node in module.every(ast.ImportFrom):
        yield Problem("house-rule", module.span(node), "said"), None
plugin = Plugin(pages=["house.md"], checks=[check], words=["import"])
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    return tmp_path


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")


@pytest.fixture
def acme(here: Path) -> Path:
    """A project with the plugin of the manual."""
    manual = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    files = {name: text for _, name, text in FILES.findall(manual)}
    assert len(files) == 4
    write({**files, "train.py": TRAIN, "b.py": "from acme import FastTrainer\nFastTrainer()\n"})
    return here


@pytest.fixture
def house(here: Path) -> Path:
    """A project with the smallest plugin there is."""
    settings = '\n[tool.mpaudit]\nselect = ["HOUSE"]\nplugins = ["house"]\n'
    write({"pyproject.toml": settings, "house.py": MODULE, "house.md": PAGE})
    write({"a.py": "from x import y\n"})
    return here


def found(*args: str) -> list[tuple[str, str, int, str]]:
    """What a check finds: file, code, row, severity."""
    result = python("check", "--output-format", "json", *args)
    assert result.returncode in (0, 1), result.stderr
    return [
        (Path(f["filename"]).name, f["code"], f["location"]["row"], f["severity"])
        for f in json.loads(result.stdout)
    ]


# --- the example of the manual


def test_the_example_sees_what_it_is_for(acme: Path) -> None:
    assert found() == [
        ("b.py", "ACME002", 2, "error"),
        ("train.py", "ACME001", STEP, "warning"),
        ("train.py", "ACME002", RETIRED, "error"),
    ]
    shown = python("check", "train.py").stdout
    assert "they come from here" in shown
    assert "= fix: Take acme.Trainer (`--fix`)" in shown


def test_its_fix_repairs(acme: Path) -> None:
    result = python("check", "--fix", "--select", "ACME002", "train.py")
    assert (result.returncode, result.stdout) == (0, "Found 1 error (1 fixed, 0 remaining).\n")
    assert Path("train.py").read_text() == TRAIN.replace("a.FastTrainer()", "a.Trainer()")


@pytest.mark.parametrize(
    ("args", "codes"),
    [
        (["--select", "ACME"], {"ACME001", "ACME002"}),
        (["--select", "ACME00"], {"ACME001", "ACME002"}),
        (["--select", "acme001"], {"ACME001"}),
        (["--select", "unclipped-step,MP1"], {"ACME001"}),
        (["--select", "MP1"], set()),
        (["--ignore", "ACME002"], {"ACME001"}),
        (["--ignore", "unclipped-step"], {"ACME002"}),
        (["--per-file-ignores", "train.py:ACME"], set()),
        (["--isolated"], set()),
        (["--isolated", "--config", "plugins = ['acme_rules.house']"], {"ACME001", "ACME002"}),
    ],
)
def test_its_codes_and_names_are_good_everywhere(
    acme: Path, args: list[str], codes: set[str]
) -> None:
    assert {code for _, code, _, _ in found(*args, "train.py")} == codes


def test_they_are_good_from_another_folder(
    acme: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert found("--select", "ACME001", str(acme)) == [("train.py", "ACME001", STEP, "warning")]


def test_comments_silence_them(acme: Path) -> None:
    text = TRAIN.replace("# unclipped", "# mpaudit: ignore[unclipped-step] once only")
    write({"train.py": text.replace("# retired", "# noqa: ACME002, E501")})
    assert found("train.py") == []
    write({"train.py": "x = 1  # mpaudit: ignore[ACME001]\ny = 2  # noqa: ACME002\n"})
    assert [code for _, code, _, _ in found("train.py")] == ["MP002", "MP002"]
    python("check", "--fix", "train.py")
    assert Path("train.py").read_text() == "x = 1\ny = 2\n"
    write({"train.py": "y = 2  # noqa: ACMEE002\n"})  # another tool's
    assert found("train.py") == []


def test_silencing_writes_their_names(acme: Path) -> None:
    python("check", "--add-ignore", "train.py")
    assert "scaler.step(optimizer)  # unclipped  # mpaudit: ignore[unclipped-step]" in (
        Path("train.py").read_text()
    )
    assert found("train.py") == []


def test_rules_and_explain_know_them(acme: Path) -> None:
    rules = json.loads(python("rules", "--output-format", "json").stdout)
    assert [each["code"] for each in rules[-2:]] == ["ACME001", "ACME002"]
    table = python("rules").stdout.splitlines()
    assert len({line.index(" ", line.index("-")) for line in table if " -" in line}) <= 1
    page = python("explain", "acme001").stdout
    assert page.startswith("ACME001 unclipped-step: gradients reach the optimizer unclipped\n")
    assert "mpaudit.readthedocs.io" not in page
    assert python("explain", "retired-trainer").returncode == 0


def test_the_settings_show_them(acme: Path) -> None:
    shown = python("check", "--show-settings", "train.py").stdout
    assert 'plugins = [\n    "acme_rules.house",\n]' in shown
    assert '"ACME001 unclipped-step",' in shown
    assert "ACME" not in python("check", "--show-settings", "--isolated", "train.py").stdout


@pytest.mark.parametrize("name", CHECK_FORMATS)
def test_every_format_shows_them(acme: Path, name: str) -> None:
    result = python("check", "--output-format", name, "train.py")
    assert (result.returncode, result.stderr) == (1, "")
    assert "ACME001" in result.stdout
    assert "readthedocs.io/rules/unclipped" not in result.stdout


def test_the_schema_takes_their_codes(acme: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "mpaudit.schema.json").read_text())
    good = {"plugins": ["acme_rules.house"], "select": ["ACME001", "ACME", "MP1", "ALL"]}
    jsonschema.validate({**good, "severity": {"retired-trainer": "warning"}}, schema)
    for bad in ({"plugins": ["acme-rules"]}, {"plugins": "x"}, {"select": ["MP9999"]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


# --- where it lies


def test_a_plugin_in_src(house: Path) -> None:
    Path("src").mkdir()
    for name in ("house.py", "house.md"):
        Path(name).rename(Path("src", name))
    assert found("a.py") == [("a.py", "HOUSE1", 1, "error")]


def test_a_plugin_that_is_installed(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("site").mkdir()
    for name in ("house.py", "house.md"):
        Path(name).rename(Path("site", name))
    refused(python("check", "a.py"), "pyproject.toml:4", "no module 'house'", "nor installed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(house / "site")]))
    assert found("a.py") == [("a.py", "HOUSE1", 1, "error")]


def test_it_holds_for_the_files_of_its_configuration(house: Path) -> None:
    write({"other/mpaudit.toml": 'ignore = ["MP8"]\n', "other/b.py": "from x import y\n"})
    write({"sub/c.py": "from x import y  # mpaudit: ignore[house-rule]\n"})
    write({"other/d.py": "x = 1  # mpaudit: ignore[house-rule]\n"})
    assert [name for name, *_ in found()] == ["a.py", "house.py"]


def test_processes_side_by_side_see_the_same(house: Path) -> None:
    for number in range(120):
        write({f"p{number % 3}/m{number}.py": "from x import y\nimport torch.amp\n"})
    one, two = (found("-n", "-j", jobs) for jobs in "12")
    assert len(one) == 122
    assert one == two


# --- the cache


def test_what_is_cached_counts_while_the_plugin_is_as_it_was(house: Path) -> None:
    def message() -> str:
        (only,) = json.loads(
            python("check", "--output-format", "json", "--exclude", "house.py").stdout
        )
        return f"{only['severity']}: {only['message']}"

    assert message() == message() == "error: said"
    assert "was known from the cache" in python("check", "-v").stderr
    Path("house.py").write_text(MODULE.replace("said", "told"))
    assert message() == "error: told"
    Path("house.md").write_text(PAGE.replace("error", "warning"))
    assert message() == "warning: told"
    Path("house.md").write_text(PAGE)
    write({"words.py": ""})


def test_the_modules_that_it_imports_count_too(house: Path) -> None:
    write(
        {
            "pyproject.toml": '[tool.mpaudit]\nplugins = ["rules.house"]\n',
            "rules/house.md": PAGE,
            "rules/words.py": "SAID = 'one'\n",
            "rules/house.py": "from rules.words import SAID\n" + MODULE.replace('"said"', "SAID"),
        }
    )
    assert "one" in python("check", ".").stdout
    write({"rules/words.py": "SAID = 'two'\n"})
    assert "two" in python("check", ".").stdout


def test_a_process_that_lives_on_loads_it_anew(house: Path) -> None:
    code = """
from pathlib import Path
from mpaudit.audit import check
from mpaudit.settings import Configuration
def said():
    return [f.message for f in check([Path("a.py")], Configuration()).findings]
text = Path("house.py").read_text()
print(said(), said())
Path("house.py").write_text(text.replace("said", "told"))
print(said())
Path("house.md").write_text(Path("house.md").read_text().replace("house-rule", "new-rule"))
Path("house.py").write_text(text.replace("house-rule", "new-rule"))
print(said())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "['said'] ['said']\n['told']\n['said']\n", result.stderr


# --- what is wrong with it


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"house.py": "1 / 0\n"}, ["cannot be imported: ZeroDivisionError", "house.py:1)"]),
        ({"house.py": "x = (\n"}, ["cannot be imported: SyntaxError", "house.py"]),
        ({"house.py": "import nowhere\n"}, ["ModuleNotFoundError: No module named 'nowhere'"]),
        ({"house.py": "raise SystemExit(3)\n"}, ["cannot be imported: SystemExit: 3"]),
        ({"house.py": "x = 1\n"}, ["is no plugin", "plugin = Plugin(...)", "docs/plugins.md"]),
        ({"house.py": "plugin = 3\n"}, ["is no plugin"]),
        ({"house.py": MODULE.replace('["house.md"]', "[]")}, ["it has no pages"]),
        ({"house.py": MODULE.replace("house.md", "gone.md")}, ["gone.md cannot be read: No such"]),
        ({"house.md": "# nothing\n"}, ["house.md: a page starts with '# rule-name (ACME001)'"]),
        ({"house.md": PAGE.replace('"ours"', "ours")}, ["house.md:4: the toml block is no TOML"]),
        ({"house.md": PAGE.replace("HOUSE1", "MP999")}, ["house.md:1: the code MP999", "not MP"]),
        ({"house.md": PAGE.replace("HOUSE1", "MP104")}, ["house.md:1: the code MP104", "not MP"]),
        (
            {"house.md": PAGE.replace("house-rule", "missing-scaler-update")},
            ["the name missing-scaler-update is taken: MP104", "of mpaudit itself"],
        ),
        ({"house.md": PAGE.replace('"error"', '"fatal"')}, ["'fatal' is none of error, warning"]),
        ({"house.md": PAGE.replace("summary", "sumary")}, ["unknown key 'sumary'"]),
        ({"house.md": PAGE.replace('summary = "ours"\n', "")}, ["lacks 'summary'"]),
    ],
)
def test_what_is_wrong_with_a_plugin_is_one_line(
    house: Path, files: dict[str, str], words: list[str]
) -> None:
    write(files)
    refused(python("check", "a.py"), "pyproject.toml:4: plugins: house", *words)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('["hause"]', ["there is no module 'hause'; did you mean 'house'?"]),
        ('["house", "no.such.rules"]', ["there is no module 'no.such.rules'"]),
        ('["my-rules"]', ["not 'my-rules'"]),
        ('"house"', ["takes a list of strings"]),
    ],
)
def test_what_is_no_plugin_is_said_with_its_row(house: Path, value: str, words: list[str]) -> None:
    write({"pyproject.toml": f"[tool.mpaudit]\nplugins = {value}\n"})
    refused(python("check", "a.py"), "pyproject.toml:2: plugins: ", *words)


@pytest.mark.parametrize("what", ["code", "name"])
def test_two_plugins_cannot_have_the_same_rule(house: Path, what: str) -> None:
    other = PAGE.replace("house-rule", "other") if what == "code" else PAGE.replace("E1", "E2")
    write({"two.py": MODULE.replace("house.md", "two.md"), "two.md": other})
    write({"mpaudit.toml": 'plugins = ["house", "two"]\n'})
    refused(
        python("check", "a.py"), f"the {what} ", "is taken: HOUSE1 house-rule is a rule of house"
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("yield Problem(", "1 / 0\n        yield Problem(", "house.py:5)"),
        ('"house-rule"', '"hose-rule"', "a problem names the rule 'hose-rule', which has no page"),
    ],
)
def test_a_check_that_fails_is_named(house: Path, old: str, new: str, said: str) -> None:
    write({"house.py": MODULE.replace(old, new)})
    refused(python("check", "a.py"), "plugin house: ", said)


def test_a_protocol_that_fails_is_named(acme: Path) -> None:
    text = Path("acme_rules/house.py").read_text()
    write(
        {
            "acme_rules/house.py": text.replace(
                "        match seen:", "        seen.nothing\n        match seen:"
            )
        }
    )
    refused(python("check", "train.py"), "plugin acme_rules.house: it failed with AttributeError")


def test_what_a_plugin_prints_is_no_report(house: Path) -> None:
    write({"house.py": "print('hello')\n" + MODULE})
    result = python("check", "--output-format", "json", "a.py")
    assert len(json.loads(result.stdout)) == 1
    assert result.stderr == "hello\n"


def test_a_broken_plugin_does_not_keep_rules_from_being_explained(house: Path) -> None:
    write({"house.py": "1 / 0\n"})
    result = python("explain", "MP104")
    assert result.returncode == 0
    assert result.stderr.startswith("warning: pyproject.toml:4: plugins: house cannot be imported")


def test_a_run_is_not_touched_by_plugins(house: Path) -> None:
    write(
        {
            "house.py": "raise SystemExit('imported')\n",
            "a.py": "import sys\nprint('house' in sys.modules)\n",
        }
    )
    result = python("run", "-o", "a.mpa", "a.py")
    assert (result.returncode, result.stdout) == (0, "False\n")


def test_built_in_rules_are_found_beside_a_plugin(house: Path) -> None:
    write({"a.py": BAD})
    assert [code for _, code, _, _ in found("--select", "MP1,HOUSE", "a.py")] == ["MP104"]

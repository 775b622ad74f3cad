"""Configuration files: which one counts, what its keys do, and what is said of a broken one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result
from test_cli import BAD, CLEAN, REPAIRED

from mpaudit.cli import main
from mpaudit.errors import MpauditError
from mpaudit.settings import Configuration, schema
from mpaudit.settings.key import KEYS
from mpaudit.settings.reading import layers

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCHEMA = Path(__file__).parents[1] / "mpaudit.schema.json"


def call(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in args])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("MPAUDIT_OUTPUT_FORMAT", raising=False)
    return tmp_path


def write(name: str, text: str) -> Path:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")
    return Path(name)


def found(*args: str) -> list[tuple[str, str]]:
    """File and rule of each finding."""
    result = call("check", "--output-format", "json", *args)
    assert result.exit_code in (0, 1), result.stderr
    here = Path.cwd()
    return [
        (str(Path(each["filename"]).relative_to(here)), each["code"])
        for each in json.loads(result.stdout)
    ]


# --- which file counts


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", '[tool.mpaudit]\nignore = ["MP104"]\n'),
        ("pyproject.toml", '[tool]\nmpaudit = { ignore = ["missing-scaler-update"] }\n'),
        ("pyproject.toml", '[tool.mpaudit.per-file-ignores]\n"*.py" = ["MP1"]\n'),
        ("mpaudit.toml", 'ignore = ["mp104"]\n'),
        (".mpaudit.toml", 'ignore = ["MP10"]\n'),
        ("config/mpaudit/mpaudit.toml", 'ignore = ["MP104"]\n'),
    ],
)
def test_a_file_is_found(here: Path, name: str, text: str) -> None:
    write("sub/a.py", BAD)
    assert found() == [("sub/a.py", "MP104")]
    write(name, text)
    assert found() == found("sub/a.py") == found("sub") == []
    assert found("--isolated") == [("sub/a.py", "MP104")]


def test_the_closest_file_counts_for_each_checked_file(here: Path) -> None:
    for name in ("a.py", "one/a.py", "one/deep/a.py", "two/a.py"):
        write(name, BAD)
    write("mpaudit.toml", 'ignore = ["MP104"]')
    write("one/pyproject.toml", '[tool.mpaudit]\nselect = ["MP1"]\n')
    write("two/pyproject.toml", "[tool.ruff]\n")  # none of ours
    assert found() == [("one/a.py", "MP104"), ("one/deep/a.py", "MP104")]
    write("one/deep/mpaudit.toml", "")
    write("one/mpaudit.toml", 'ignore = ["MP104"]')  # before a pyproject.toml
    assert found() == [("one/deep/a.py", "MP104")]
    write("one/deep/.mpaudit.toml", 'extend = "../mpaudit.toml"')
    assert found() == []
    write("one/deep/.mpaudit.toml", 'extend = "../mpaudit.toml"\nextend-select = ["MP104"]')
    assert found() == [("one/deep/a.py", "MP104")]


def test_a_file_that_is_named_stands_for_all(here: Path) -> None:
    write("one/a.py", BAD)
    write("two/a.py", BAD)
    write("one/mpaudit.toml", 'ignore = ["MP104"]')
    write("other/ours.toml", 'per-file-ignores = { "two/*" = ["MP104"] }')
    assert found() == [("two/a.py", "MP104")]
    assert found("--config", "other/ours.toml") == [("one/a.py", "MP104")]
    assert found("--config", "other/ours.toml", "--config", "ignore = ['MP1']") == []


def test_the_command_line_goes_over_files_and_single_lines_between(here: Path) -> None:
    write("a.py", BAD)
    write("mpaudit.toml", 'select = ["MP2"]\noutput-format = "concise"\n')
    assert call("check").stdout == "All checks passed!\n"
    assert found("--select", "MP104") == [("a.py", "MP104")]
    assert found("--extend-select", "MP104") == [("a.py", "MP104")]
    assert found("--config", 'select = ["MP1"]') == [("a.py", "MP104")]
    assert found("--config", 'select = ["MP1"]', "--ignore", "MP1") == []
    assert found("--config", 'extend-select = ["MP104"]', "--ignore", "MP1") == []
    assert call("check", "--select", "MP1").stdout.startswith("a.py:11:5: error[MP104]")
    assert call("check", "--select", "MP1", "--output-format", "pylint").stdout.startswith(
        "a.py:11: [MP104]"
    )


# --- what keys do


@pytest.mark.parametrize(
    ("pattern", "off"),
    [("tests/*", True), ("*.py", True), ("!tests/*", False), ("!src/**", True), ("t.py", True)],
)
def test_rules_are_off_in_files(here: Path, pattern: str, off: bool) -> None:
    write("tests/t.py", BAD)
    for rules in ('["MP104"]', '["missing-scaler-update"]', '["ALL"]', '["MP2", "MP1"]'):
        write("mpaudit.toml", f'per-file-ignores = {{ "{pattern}" = {rules} }}')
        assert found() == ([] if off else [("tests/t.py", "MP104")])
    assert found("--isolated", "--per-file-ignores", f"{pattern}:MP104") == (
        [] if off else [("tests/t.py", "MP104")]
    )
    write("mpaudit.toml", 'per-file-ignores = { "*" = ["MP2"] }\nselect = ["MP104"]')
    assert found("--extend-per-file-ignores", f"{pattern}:MP1") == (
        [] if off else [("tests/t.py", "MP104")]
    )


def test_a_comment_about_a_rule_that_is_off_in_its_file_is_not_called_unused(here: Path) -> None:
    write("a.py", REPAIRED + "x = 1  # mpaudit: ignore[MP104]\n")
    assert found() == [("a.py", "MP002")]
    write("mpaudit.toml", 'per-file-ignores = { "a.py" = ["MP104"] }')
    assert found() == []


def test_severity(here: Path) -> None:
    write("a.py", BAD)
    write("mpaudit.toml", 'severity = { MP1 = "advice", missing-scaler-update = "warning" }')
    assert "a.py:11:5: warning[MP104]" in call("check", "--output-format", "concise").stdout
    (issue,) = json.loads(call("check", "--output-format", "gitlab").stdout)
    assert issue["severity"] == "minor"


@pytest.mark.parametrize(
    ("lines", "fixed"),
    [
        ("", True),
        ('unfixable = ["MP1"]', False),
        ('fixable = ["MP2"]', False),
        ("fixable = []", False),
        ('fixable = ["MP2"]\nextend-fixable = ["MP104"]', True),
        ('fixable = ["missing-scaler-update"]', True),
        ('fixable = ["MP104"]\nunfixable = ["MP1"]', True),
        ('extend-unsafe-fixes = ["MP104"]', False),
        ('extend-unsafe-fixes = ["MP104"]\nunsafe-fixes = true', True),
    ],
)
def test_which_fixes_are_applied(here: Path, lines: str, fixed: bool) -> None:
    write("a.py", BAD)
    write("mpaudit.toml", lines)
    assert call("check", "--fix").exit_code == (0 if fixed else 1)
    assert Path("a.py").read_text() == (REPAIRED if fixed else BAD)


def test_an_unsafe_fix_can_be_called_safe(here: Path) -> None:
    bad = (Path(__file__).parents[1] / "rules/policy-after-model.md").read_text()
    write("a.py", bad.split("## Bad")[1].split("```python\n")[1].split("```")[0])
    assert call("check", "--select", "MP501", "--fix").exit_code == 1
    write("mpaudit.toml", 'extend-safe-fixes = ["MP5"]')
    assert call("check", "--select", "MP501", "--fix").exit_code == 0


def test_files_can_ask_for_fixes(here: Path) -> None:
    write("a.py", BAD)
    write("mpaudit.toml", "fix = true\nshow-fixes = true\n")
    assert call("check", "--no-fix").exit_code == 1
    result = call("check")
    assert result.stdout == (
        "\nFixed 1 error:\n- a.py:\n    1 × MP104 (missing-scaler-update)\n\n"
        "Found 1 error (1 fixed, 0 remaining).\n"
    )
    assert Path("a.py").read_text() == REPAIRED


def test_targets_are_those_of_each_file(here: Path) -> None:
    page = (Path(__file__).parents[1] / "rules/no-grad-poisons-cache.md").read_text()
    bad = page.split("## Bad")[1].split("```python\n")[1].split("```")[0]
    write("old/a.py", bad)
    write("new/a.py", bad)
    write("old/mpaudit.toml", 'target-torch = "2.4"\nselect = ["MP211"]')
    write("new/mpaudit.toml", 'target-torch = "2.10"\nselect = ["MP211"]')
    assert found() == [("old/a.py", "MP211")]
    assert found("--preview", "--config", "select = ['MP2']") == [("old/a.py", "MP211")]
    assert found("--config", "select = ['MP2']") == []


# --- fixing, from the command line


def test_fix_only(here: Path) -> None:
    write("a.py", BAD)
    write("b.py", BAD.replace('torch.autocast("cuda", ', "torch.cuda.amp.autocast("))
    result = call("check", "--fix-only", "--select", "MP104", "--show-fixes")
    assert (result.exit_code, result.stdout) == (
        0,
        "\nFixed 2 errors:\n- a.py:\n    1 × MP104 (missing-scaler-update)\n"
        "- b.py:\n    1 × MP104 (missing-scaler-update)\n\nFixed 2 errors.\n",
    )
    assert (call("check", "--fix-only", "--select", "MP104").stdout) == ""
    assert call("check", "--fix-only", "--exit-non-zero-on-fix").exit_code == 1  # MP701 in b.py
    assert call("check", "--fix-only", "--exit-non-zero-on-fix").exit_code == 0
    write("c.py", "import torch.amp\nx = (\n")
    result = call("check", "--fix-only")
    assert result.exit_code == 1
    assert "MP001" in result.stderr


def test_exit_codes_of_fixing(here: Path) -> None:
    write("a.py", BAD)
    assert call("check", "--exit-non-zero-on-fix").exit_code == 1
    assert call("check", "--fix", "--exit-non-zero-on-fix").exit_code == 1
    assert call("check", "--fix", "--exit-non-zero-on-fix").exit_code == 0
    write("a.py", BAD)
    assert call("check", "--diff", "--exit-zero").exit_code == 0
    assert call("check", "--exit-zero", "--exit-non-zero-on-fix").exit_code == 2
    assert call("check", "--diff", "--show-fixes").exit_code == 2
    assert Path("a.py").read_text() == BAD


# --- what is shown of settings


def test_show_files(here: Path) -> None:
    write("b.py", CLEAN)
    write("sub/a.ipynb", "{}")
    result = call("check", "--show-files")
    assert result.stdout == f"{here / 'b.py'}\n{here / 'sub/a.ipynb'}\n"


def test_shown_settings_are_a_configuration_that_says_the_same(here: Path) -> None:
    write("a.py", BAD)
    lines = (
        'ignore = ["MP2"]\ntarget-torch = "2.4"\nextend-exclude = ["x"]\nunfixable = ["MP1"]\n'
        'per-file-ignores = { "!a.py" = ["MP3"] }\nseverity = { MP104 = "warning" }\nfix = true\n'
    )
    write("mpaudit.toml", lines)
    shown = call("check", "--show-settings", "a.py").stdout
    head = f'Resolved settings for: "{here / "a.py"}"\nSettings path: "{here / "mpaudit.toml"}"\n'
    assert shown.startswith(head)
    table = tomllib.loads(shown.removeprefix(head))
    assert "MP104 missing-scaler-update" in table["select"]
    assert not any(each.startswith("MP2") for each in table["select"])
    assert not any(each.startswith("MP1") for each in table["fixable"])
    assert (table["target-torch"], table["fix"], "x" in table["exclude"]) == ("2.4", True, True)
    assert table["severity"] == {"MP104": "warning"}
    for key in ("select", "fixable"):
        table[key] = [each.split()[1] for each in table[key]]
    for key in ("baseline", "target-keras"):
        assert table.pop(key) == ""
    jsonschema.validate(table, json.loads(SCHEMA.read_text()))


# --- broken ones


@pytest.mark.parametrize(
    ("lines", "row", "said"),
    [
        ('selct = ["MP1"]', 1, "there is no key 'selct'; did you mean 'select'?"),
        ('\nper_file_ignores = { a = ["MP1"] }', 2, "did you mean 'per-file-ignores'?"),
        ("zzz = 1", 1, "there is no key 'zzz'; see mpaudit.schema.json"),
        ('select = [\n  "MP1",\n  "MP1O4",\n]', 3, "no rule 'MP1O4'; did you mean 'MP104'?"),
        ('ignore = ["missing-scaler-updat"]', 1, "did you mean 'missing-scaler-update'?"),
        ('# select = 1\nselect = "MP1"', 2, "select: takes a list of strings, not 'MP1'"),
        ("fix = 1", 1, "fix: takes true or false, not 1"),
        ('target-torch = "two"', 1, "target-torch: takes a version such as \"2.4\", not 'two'"),
        ("target-keras = 4", 1, "target-keras: takes 2 or 3, not 4"),
        ('output-format = "jsn"', 1, "output-format: takes one of full, concise,"),
        ('[per-file-ignores]\n"a.py" = ["MP1"]\n"b.py" = ["X1"]', 3, "there is no rule 'X1'"),
        ('[severity]\nMP104 = "fatal"', 2, "takes error, warning, advice for a rule, not 'fatal'"),
        ('severity.MP1044 = "error"', 1, "no rule 'MP1044'; did you mean 'MP104'?"),
        ('extend = "nowhere.toml"', 1, "extend: there is no file 'nowhere.toml'"),
        ("select = [", 1, "it is no TOML: "),
        ("fix = true\nselect = [\nfix", 3, "it is no TOML: "),
    ],
)
def test_a_broken_file_is_one_line_with_file_and_line(
    here: Path, lines: str, row: int, said: str
) -> None:
    write("sub/a.py", BAD)
    for name, head, prefix in (("mpaudit.toml", "", 0), ("pyproject.toml", "[tool.mpaudit]\n", 1)):
        write(
            f"sub/{name}",
            head + (lines if not prefix else lines.replace("\n[", "\n[tool.mpaudit.")),
        )
        if prefix and lines.startswith("["):
            write(f"sub/{name}", head + "[tool.mpaudit." + lines[1:])
        result = call("check", "sub")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"mpaudit: sub/{name}:{row + prefix}: "), result.stderr
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
        Path(f"sub/{name}").unlink()


def test_other_broken_ones(here: Path) -> None:
    write("a.py", BAD)
    write("one.toml", 'extend = "two.toml"')
    write("two.toml", 'extend = "one.toml"')
    for args, said in [
        (("--config", "one.toml"), "the files that it extends go in a circle"),
        (("--config", "nope.toml"), "there is no file 'nope.toml'"),
        (("--config", "selct = []"), "no key 'selct'; did you mean 'select'?"),
        (("--config", "select = ["), "neither a file nor a `key = value`"),
        (("--config", "one.toml", "--isolated"), "cannot be combined"),
        (("--per-file-ignores", "a.py"), "'a.py' is no PATTERN:RULE"),
        (("--per-file-ignores", "a.py:MP1O4"), "did you mean 'MP104'?"),
        (("--unfixable", "MP1O4"), "--unfixable: there is no rule 'MP1O4'"),
    ]:
        result = call("check", *args)
        assert (result.exit_code, result.stdout, said in result.stderr) == (2, "", True), args
    Path("mpaudit.toml").write_bytes(b"\xff")
    assert "mpaudit.toml: it cannot be read: it is no UTF-8 text" in call("check").stderr
    Path("mpaudit.toml").unlink()
    write("pyproject.toml", "not ours = [[[")
    assert call("check").exit_code == 1


# --- the schema


def test_the_published_schema_is_that_of_the_code() -> None:
    """`python -m mpaudit.settings.schema > mpaudit.schema.json` makes it anew."""
    assert SCHEMA.read_text(encoding="utf-8") == schema.text()
    jsonschema.Draft7Validator.check_schema(json.loads(SCHEMA.read_text()))


VALUES = [
    *(True, "a", "2.4", "3", 2, 4, [], ["MP1"], ["nothing"], [1], {}, {"a": ["MP1"]}, 1.5),
    *({"MP1": "error"}, {"MP1": "fatal"}, {"nothing": "error"}, {"a": ["nothing"]}, "full", None),
]


@pytest.mark.parametrize("key", KEYS)
def test_the_schema_allows_what_the_code_reads(key: str, tmp_path: Path) -> None:
    check = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()))
    kind = KEYS[key].kind
    for value in VALUES:
        try:
            kind.read(value)
        except (ValueError, MpauditError):
            assert not check.is_valid({key: value}), value
        else:
            assert check.is_valid({key: value}), value


def test_the_defaults_in_the_schema_are_values(here: Path) -> None:
    for key in KEYS.values():
        value = tomllib.loads(f"x = {key.default}")["x"]
        if value != "":
            key.kind.read(value)
    write(
        "mpaudit.toml",
        "\n".join(f"{k.name} = {k.default}" for k in KEYS.values() if k.default != '""'),
    )
    assert layers(Path("mpaudit.toml").absolute())
    write("a.py", BAD)
    settings = Configuration().of(Path("a.py"))
    plain = Configuration(isolated=True).of(Path("a.py"))
    assert settings.excluded[0].words == plain.excluded[0].words


def test_options_that_are_keys_too_have_the_same_names() -> None:
    (command,) = (each for name, each in main.commands.items() if name == "check")
    names = {name.lstrip("-") for option in command.params for name in option.opts}
    assert set(KEYS) - names == {
        *("extend", "extend-ignore", "severity", "extend-safe-fixes", "extend-unsafe-fixes"),
        "plugins",
    }


def test_without_configuration_no_reader_of_toml_is_loaded(here: Path) -> None:
    write("a.py", CLEAN)
    code = (
        "import sys; from pathlib import Path; from mpaudit.settings import Configuration; "
        "Configuration().of(Path('a.py')); sys.exit('mpaudit.source' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("pyproject.toml", "[tool]\nmpaudit = 3\n", "pyproject.toml:2: tool.mpaudit takes a table"),
        ("pyproject.toml", "[[tool.mpaudit]]\n", "pyproject.toml:1: tool.mpaudit takes a table"),
        ("mpaudit.toml", '[tool.mpaudit]\nselect = ["MP1"]\n', "stand without [tool.mpaudit]"),
    ],
)
def test_a_table_in_the_wrong_place_is_said(here: Path, file: str, text: str, words: str) -> None:
    write("a.py", BAD)
    write(file, text)
    result = call("check", "a.py")
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


def test_a_byte_order_mark_does_not_matter(here: Path) -> None:
    write("a.py", BAD)
    Path("mpaudit.toml").write_bytes(b'\xef\xbb\xbfignore = ["MP104"]\n')
    assert call("check", "a.py").exit_code == 0

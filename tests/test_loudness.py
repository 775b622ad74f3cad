"""How much `check` says, and in which colours: -q, -s, -v, --color."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_cli import BAD, CLEAN, REPAIRED, call, refused

BARE = "scaler.step(opt)  # mpaudit: ignore\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    Path("a.py").write_text(BAD)
    Path("clean.py").write_text(CLEAN)
    Path("warned.py").write_text(BARE)
    return tmp_path


@pytest.mark.parametrize("option", ["-q", "--quiet"])
def test_quiet_prints_findings_and_nothing_else(option: str) -> None:
    for name in ("full", "concise", "grouped"):
        loud = call("check", "--output-format", name, ".").stdout
        result = call("check", option, "--output-format", name, ".")
        assert (result.exit_code, result.stderr) == (1, "")
        assert "MP104" in result.stdout
        assert result.stdout == loud.removesuffix(
            "Found 1 error.\n[*] 1 fixable with `--fix`.\n"
        ), name
    result = call("check", option, "clean.py", "warned.py")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_quiet_leaves_what_programs_read_as_it_is() -> None:
    plain = call("check", "--output-format", "json", "a.py")
    assert call("check", "-q", "--output-format", "json", "a.py").stdout == plain.stdout


def test_quiet_repairs_without_a_word() -> None:
    result = call("check", "-q", "--fix", "--show-fixes", "a.py")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert Path("a.py").read_text() == REPAIRED


def test_quiet_shows_counts_and_differences_that_are_asked_for() -> None:
    counts = call("check", "-q", "--statistics", "a.py")
    assert counts.stdout == "1  MP104  [*]  missing-scaler-update\n"
    change = call("check", "-q", "--diff", "a.py")
    assert (change.exit_code, change.stderr) == (1, "")
    assert change.stdout.endswith("+    scaler.update()\n")


@pytest.mark.parametrize("more", [["--diff"], ["--fix-only"], []])
def test_quiet_is_not_silent_about_a_file_that_nobody_can_read(more: list[str]) -> None:
    Path("b.py").write_text("import torch\ntorch.amp.autocast(\n")
    result = call("check", "-q", *more, "b.py")
    assert result.exit_code == 1
    assert "unparsable-source" in result.stdout + result.stderr


@pytest.mark.parametrize("option", ["-s", "--silent"])
def test_silent_prints_nothing(option: str) -> None:
    for more in ([], ["--output-format", "sarif"], ["--statistics"], ["--diff"]):
        result = call("check", option, *more, ".")
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", ""), more
    result = call("check", option, "clean.py", "warned.py")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_silent_still_writes_the_file_that_is_asked_for() -> None:
    result = call("check", "-s", "--output-format", "json", "-o", "found.json", ".")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "")
    assert [each["code"] for each in json.loads(Path("found.json").read_text())] == ["MP104"]


def test_what_could_not_be_done_is_always_said() -> None:
    refused(call("check", "-s", "gone.py"), "gone.py")
    refused(call("check", "-q", "--select", "MP9999", "."), "MP9999")


def test_verbose_tells_what_was_done() -> None:
    result = call("check", "-v", ".")
    lines = result.stderr.splitlines()
    assert lines[0] == "Settings: no file, all is as it comes"
    assert lines[1] == "2 of 3 files may concern a rule"
    assert re.fullmatch(r"Checked 3 files in \d+\.\d\d s", lines[2])
    assert result.stdout == call("check", ".").stdout
    Path("mpaudit.toml").write_text('extend = "more.toml"\n')
    Path("more.toml").write_text('ignore = ["MP2"]\n')
    lines = call("check", "--verbose", ".").stderr.splitlines()
    files = [f"Settings: {Path(name).absolute()}" for name in ("more.toml", "mpaudit.toml")]
    assert lines[:2] == files
    assert any("was known from the cache" in line for line in lines)


def test_only_one_of_them() -> None:
    refused(call("check", "-q", "-s", "."), "--quiet", "--silent")
    refused(call("check", "-v", "-q", "."), "--verbose", "--quiet")


COMMANDS = [["check", "a.py"], ["explain", "MP104"], ["rules"], ["check", "--diff", "a.py"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_colours_are_as_asked_whatever_the_environment(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "\x1b[" not in call(*command).stdout
    assert "\x1b[" not in call(*command, "--color", "auto").stdout
    monkeypatch.setenv("NO_COLOR", "1")
    always = call(*command, "--color", "always").stdout
    assert "\x1b[" in always
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert call(*command).stdout == always
    assert "\x1b[" not in call(*command, "--color=never").stdout


def test_a_file_gets_no_colours() -> None:
    call("check", "--color", "always", "-o", "out.txt", "a.py")
    assert "\x1b[" not in Path("out.txt").read_text()


def test_what_programs_read_gets_no_colours() -> None:
    for name in ("json", "json-lines", "junit", "github", "gitlab", "pylint", "rdjson", "sarif"):
        result = call("check", "--color", "always", "--output-format", name, "a.py")
        assert "\x1b[" not in result.stdout


def test_a_colour_that_is_none_is_refused() -> None:
    refused(call("check", "--color", "blue", "a.py"), "blue", "always")

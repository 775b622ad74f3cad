"""Every format says the same of the same findings: file, cell, row and rule; JSON keeps its contract."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from test_cli import call

from mpaudit.output_format import CHECK_FORMATS

FIXTURES = Path(__file__).parents[1] / "fixtures"
PATHS = (FIXTURES / "notebooks", *sorted((FIXTURES / "scripts").glob("[a-d]*.py")))
Place = tuple[str, int | None, int, str]
"""Name of the file, cell, row, code."""

PLACE = r"(?P<path>[^\n]+?):(?:cell (?P<cell>\d+):)?(?P<row>\d+)"
POSITION = {
    "type": "object",
    "properties": {
        "row": {"type": "integer", "minimum": 1},
        "column": {"type": "integer", "minimum": 1},
    },
    "required": ["row", "column"],
    "additionalProperties": False,
}
PLACED = {"location": POSITION, "end_location": POSITION}
CONTRACT: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "code": {"type": "string", "pattern": r"^MP\d{3}$"},
            "name": {"type": "string", "pattern": r"^[a-z0-9]+(-[a-z0-9]+)+$"},
            "severity": {"enum": ["error", "warning", "advice"]},
            "message": {"type": "string", "minLength": 1},
            "consequence": {"type": "string"},
            "filename": {"type": "string", "pattern": "^/"},
            "cell": {"type": ["integer", "null"], "minimum": 1},
            **PLACED,
            "fix": {
                "type": ["object", "null"],
                "properties": {
                    "applicability": {"enum": ["safe", "unsafe", "display-only"]},
                    "message": {"type": "string", "minLength": 1},
                    "edits": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {"content": {"type": "string"}, **PLACED},
                            "required": ["content", "location", "end_location"],
                        },
                    },
                },
                "required": ["applicability", "message", "edits"],
            },
            "related": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"filename": {"type": "string"}, "location": POSITION},
                    "required": ["filename", "location", "message"],
                },
            },
            "url": {"type": "string", "format": "uri"},
            "confirmed": {"type": "boolean"},
        },
        "required": [
            *("code", "name", "severity", "message", "filename", "cell", "location"),
            *("end_location", "fix", "related", "url", "confirmed"),
        ],
    },
}
"""What programs may rely on; more keys may come."""


def place(match: re.Match[str], code: str = "") -> Place:
    cell = match["cell"]
    named = code or match["code"]
    return Path(match["path"]).name, int(cell) if cell else None, int(match["row"]), named


def of_json(text: str) -> Iterator[Place]:
    for each in json.loads(text):
        yield Path(each["filename"]).name, each["cell"], each["location"]["row"], each["code"]


def of_lines(text: str) -> Iterator[Place]:
    yield from of_json(f"[{','.join(text.splitlines())}]")


def of_full(text: str) -> Iterator[Place]:
    for match in re.finditer(rf"^\w+\[(?P<code>MP\d+)\].*\n *--> {PLACE}:\d+$", text, re.MULTILINE):
        yield place(match)


def of_concise(text: str) -> Iterator[Place]:
    for match in re.finditer(rf"^{PLACE}:\d+: \w+\[(?P<code>MP\d+)\]", text, re.MULTILINE):
        yield place(match)


def of_grouped(text: str) -> Iterator[Place]:
    name = ""
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            name = line[:-1]
        elif match := re.match(r" +((?:cell \d+:)?\d+):\d+ +\w+\[(MP\d+)\]", line):
            whole = re.fullmatch(PLACE, f"{name}:{match[1]}")
            assert whole is not None
            yield place(whole, match[2])


def of_pylint(text: str) -> Iterator[Place]:
    for line in text.splitlines():
        match = re.match(rf"{PLACE}: \[(?P<code>\w+)\] .", line)
        assert match is not None
        yield place(match)


def of_github(text: str) -> Iterator[Place]:
    for line in text.splitlines():
        command = re.fullmatch(r"::(?:error|warning|notice) ([^:]*)::(.+)", line)
        assert command is not None
        match = re.match(rf"{PLACE}:\d+: (?P<code>MP\d+) ", unquote(command[2]))
        assert match is not None
        properties = dict(each.split("=", 1) for each in command[1].split(","))
        assert Path(unquote(properties["file"])).name == Path(match["path"]).name
        assert match["cell"] or properties["line"] == match["row"]
        yield place(match)


def of_gitlab(text: str) -> Iterator[Place]:
    for each in json.loads(text):
        name, begin = Path(each["location"]["path"]).name, each["location"]["positions"]["begin"]
        match = re.match(r"(?:cell (\d+), line (\d+): )?(MP\d+)", each["description"])
        assert match is not None
        cell = int(match[1]) if match[1] else None
        yield name, cell, int(match[2]) if match[2] else begin["line"], match[3]


def of_junit(text: str) -> Iterator[Place]:
    for failure in ElementTree.fromstring(text).iter("failure"):
        match = re.match(rf"{PLACE}:\d+: ", failure.text or "")
        assert match is not None
        yield place(match, (failure.get("type") or "").split()[0])


def of_rdjson(text: str) -> Iterator[Place]:
    for each in json.loads(text)["diagnostics"]:
        code, location = each["code"]["value"], each["location"]
        if "range" in location:
            yield Path(location["path"]).name, None, location["range"]["start"]["line"], code
            continue
        match = re.match(rf"{PLACE}:\d+: ", each["message"])
        assert match is not None
        yield place(match, code)


def of_sarif(text: str) -> Iterator[Place]:
    for each in json.loads(text)["runs"][0]["results"]:
        (location,) = each["locations"]
        physical = location["physicalLocation"]
        name = Path(unquote(physical["artifactLocation"]["uri"])).name
        logical = location.get("logicalLocations", [{}])[0].get("fullyQualifiedName", "")
        if match := re.fullmatch(r"cell (\d+), line (\d+)", logical):
            yield name, int(match[1]), int(match[2]), each["ruleId"]
        else:
            yield name, None, physical["region"]["startLine"], each["ruleId"]


READERS: dict[str, Callable[[str], Iterator[Place]]] = {
    "full": of_full,
    "concise": of_concise,
    "grouped": of_grouped,
    "json": of_json,
    "json-lines": of_lines,
    "junit": of_junit,
    "github": of_github,
    "gitlab": of_gitlab,
    "pylint": of_pylint,
    "rdjson": of_rdjson,
    "sarif": of_sarif,
}


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def output(name: str, cache: Path) -> str:
    paths = [str(each) for each in PATHS]
    options = ["--isolated", "--cache-dir", str(cache), "--output-format", name]
    result = call("check", *options, *paths)
    assert (result.exit_code, "internal" in result.stderr) == (1, False)
    return result.stdout


@pytest.fixture(scope="module")
def expected(cached: Path) -> list[Place]:
    found = sorted(of_json(output("json", cached)), key=str)
    assert len(found) > 60
    assert sum(cell is not None for _, cell, _, _ in found) > 5
    return found


@pytest.mark.parametrize("name", CHECK_FORMATS)
def test_every_format_names_file_cell_row_and_rule(
    name: str, expected: list[Place], cached: Path
) -> None:
    assert sorted(READERS[name](output(name, cached)), key=str) == expected


def test_json_keeps_its_contract(cached: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(output("json", cached)), CONTRACT)

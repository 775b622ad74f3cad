"""The page of a run: the JSON report's numbers, nothing loaded, nothing run, and a browser's view."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from mpaudit.cli import main
from mpaudit.finding import Finding, Moment, Position, Related, Span
from mpaudit.fix import Edit, Fix, Safety
from mpaudit.render import chart, html, run_json
from mpaudit.render.excerpt import KEPT, excerpts, visible
from mpaudit.render.html_layers import risk
from mpaudit.rule import Severity
from mpaudit.runtime.record import (
    Attempts,
    Cast,
    Flowed,
    Incident,
    Layer,
    Optimizer,
    Statistics,
)
from mpaudit.runtime.summary import Numbers, RunReport, Steps, summarise
from mpaudit.runtime.trace import Reader, Writer

SCRIPT = "/project/<b>&'train\".py"
TEXT = """\
# 策略
scaler = GradScaler()
for batch in data:
    scaler.scale(loss).backward()
    scaler.step(optimizer)  # </pre><script>
"""
EVIL = "</style><script>alert(1)</script>&amp;"
ROWS = (
    Layer("", "Model", 0, calls=8, calls_per_step=1, filename=SCRIPT, row=3),
    Layer("body.<i>0", "Linear", 1, calls=8, calls_per_step=2, filename=SCRIPT, row=4),
    Layer("body", "Body", 2, calls=8, calls_per_step=1),
    Flowed("", "input", "float32", 8),
    Flowed("", "output", "float16", 8),
    Flowed("body.<i>0", "input", "float32", 8),
    Flowed("body.<i>0", "output", "bfloat16", 8),
    Flowed("body.<i>0", "output", "float16", 8),
    Flowed("body.<i>0", "parameter", "float32", 2),
    Flowed("body.<i>0", "parameter_grad", "float32", 2),
    Flowed("body.<i>0", "output_grad", "float16", 8),
    Statistics("", "forward", "float16", 8, 80, amax=511.75),
    Statistics("", "backward", "float16", 8, 80, nan=1, first_bad_step=1, last_bad_step=1),
    Statistics(
        "body.<i>0", "forward", "float16", 4, 40, 3, 2, first_bad_step=2, last_bad_step=3, amax=6e4
    ),
    Statistics(
        "body.<i>0", "backward", "float16", 8, 80, amax=65500.0, flushed=20, flushed_of=81
    ),
    Cast("body.<i>0", "activation", "float32", "float16", 8, 800),
    Cast("body.<i>0", "parameter", "float32", "float16", 16, 1604),
    Optimizer(0, "SGD"),
    Optimizer(1, "Adam"),
    Attempts(0, 0, 1, applied=False, scale=65536.0),
    Attempts(0, 2, 2, applied=True, scale=16384.0),
    Attempts(0, 3, 3, applied=False, scale=16384.0),
    Attempts(0, 4, 8, applied=True, scale=8192.0),
    Attempts(0, 9, 9, applied=None, scale=8192.0),
    Attempts(1, 0, 4, applied=True, scale=None),
    Incident(
        "activation-overflow", "activation-overflow", "body.<i>0", 2, 3, 0, ("inf", "nan"),
        "defect", f"inf out of `finite` inputs {EVIL}", SCRIPT, 4,
    ),
    Incident("activation-nan", "gradient-nan", "", 1, 1, 0, ("nan",), "benign", "calibration"),
)  # fmt: skip
FACTS = {
    "script": SCRIPT,
    "argv": ["--name", EVIL],
    "framework": "torch",
    "versions": {"python": "3.11.7", "mpaudit": "0.1.0", "torch": "2.13.0"},
    "device": "cpu",
    "emulated": f"float16 kernels {EVIL}",
    "precision": "float16 autocast",
    "started": "2026-11-22T17:44:00+00:00",
    "ended": "2026-11-22T17:45:01.5+00:00",
    "exit_code": 1,
    "exception": f"RuntimeError: step() has already been called since the last update(). {EVIL}",
    "complete": False,
    "overhead": {"seconds": 2.5, "share": 0.0407},
    "probe_errors": [EVIL],
    "skips": [[0, 0, 0, [""]], [0, 1, 1, ["body", "body.<i>0", "", "a", "b", "c"]]],
}


def at(row: int, start: int, end: int, to: int | None = None) -> Span:
    return Span(SCRIPT, Position(row, start), Position(to or row, end))


UPDATE = Fix(
    "Call `scaler.update()`",
    (Edit(len(TEXT), len(TEXT), "    scaler.update()\n"),),
    Safety.SAFE,
)
STEP = Finding(
    "MP104",
    "missing-scaler-update",
    Severity.ERROR,
    f"`scaler.step(optimizer)` without update {EVIL}",
    at(5, 5, 27),
    consequence="the second `iteration` raises",
    fix=UPDATE,
    related=(Related(at(4, 5, 34), "scaled `here`"),),
    moment=Moment(1, "body.<i>0", "GradScaler.step"),
    confirmed=True,
)
OTHER = replace(
    STEP, severity=Severity.WARNING, span=at(2, 10, 22), related=(), moment=None, confirmed=False
)

VOID = {"meta", "br", "input", "link", "img", "hr"}


@dataclass
class Node:
    """An element of a page."""

    tag: str
    attributes: dict[str, str]
    children: list[Node | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(each if isinstance(each, str) else each.text for each in self.children)

    def walk(self) -> Iterator[Node]:
        yield self
        for each in self.children:
            if isinstance(each, Node):
                yield from each.walk()

    def all(self, tag: str = "", cls: str = "", **attributes: str) -> list[Node]:
        return [
            each
            for each in self.walk()
            if tag in ("", each.tag)
            and (not cls or cls in each.attributes.get("class", "").split())
            and all(each.attributes.get(k.replace("_", "-")) == v for k, v in attributes.items())
        ]

    def one(self, tag: str = "", cls: str = "", **attributes: str) -> Node:
        (found,) = self.all(tag, cls, **attributes)
        return found


class Page(HTMLParser):
    """Reads a page and insists that its elements are nested and closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Node("", {})
        self._open = [self.root]
        self.feed(text)
        self.close()
        assert self._open == [self.root], self._open[-1].tag

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            node = self._open[-1].children[-1]
            assert isinstance(node, Node)
            self._open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)


def read(text: str) -> Node:
    return Page(text).root


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mpaudit-train.py.1.mpa"
    writer = Writer(path)
    for key, value in FACTS.items():
        writer.meta(key, value)
    writer.rows(ROWS)
    writer.close()
    return path


@pytest.fixture
def report(trace: Path) -> RunReport:
    with Reader(trace) as reader:
        return summarise(reader, [OTHER, STEP], {SCRIPT: TEXT})


def values(node: Node, name: str) -> list[float]:
    """The numbers of that name, as the page tells them to programs."""
    return [float(each.attributes["value"]) for each in node.all("data", name)]


def optional(number: float | None) -> list[float]:
    return [] if number is None else [number]


def chips(row: Node, column: str) -> list[str]:
    return [each.text for each in row.one("td", column).all("span", "chip")]


def listed(dtypes: str | Sequence[str] | None) -> list[str]:
    return [dtypes] if isinstance(dtypes, str) else list(dtypes or ())


# --- the same numbers as the JSON report


def same(page: Node, data: dict[str, object]) -> None:
    """The page of a run tells what its JSON tells."""
    rows = page.one("table", "layers").all("tr")[2:]
    assert [row.attributes["data-layer"] for row in rows] == [e["path"] for e in data["layers"]]
    for row, layer in zip(rows, data["layers"], strict=True):
        assert layer["type"] in row.one("th").text
        assert chips(row, "input") == layer["input_dtypes"]
        assert chips(row, "output") == layer["output_dtypes"]
        assert chips(row, "parameter") == listed(layer["param_dtype"])
        assert chips(row, "parameter-grad") == listed(layer["param_grad_dtype"])
        assert chips(row, "output-grad") == listed(layer["output_grad_dtype"])
        for phase in ("forward", "backward"):
            cell, numbers = row.one("td", phase), layer[phase]
            assert values(cell, "amax") == optional(numbers["amax"])
            assert values(cell, "headroom") == optional(numbers["headroom_bits"])
            assert values(cell, "inf") == optional(numbers["inf"] or None)
            assert values(cell, "nan") == optional(numbers["nan"] or None)
            assert values(cell, "first-bad") == optional(numbers["first_bad_step"])
            assert values(cell, "flushed") == optional(numbers.get("flushed_share") or None)
        casts = layer["casts_per_step"]
        assert values(row, "casts") == optional(casts["forward"] or None)
        assert values(row, "cast-parameters") == optional(casts["of_parameters"] or None)
        assert values(row, "cast-bytes") == (optional(casts["bytes"]) if casts["forward"] else [])
    for optimizer in data["optimizers"]:
        row = page.one("table", "optimizers").one("tr", data_optimizer=str(optimizer["index"]))
        assert optimizer["type"] in row.text
        assert values(row, "total") == [optimizer["steps"]]
        assert values(row, "applied") == [optimizer["applied"]]
        assert values(row, "skipped") == [len(optimizer["skipped_steps"])]
    assert values(page, "final-scale") == optional(data["loss_scale"]["final"])
    found = [(e.attributes["data-rule"], bool(e.all(cls="confirmed"))) for e in page.all("article")]
    assert found == [(each["name"], each["confirmed"]) for each in data["findings"]]
    assert values(page, "findings") == [len(data["findings"])]
    told = [row for row in page.one("section", id="incidents").all("tr") if row.all("td")]
    assert len(told) == len(data["events"])


def test_the_numbers_are_the_json_reports(report: RunReport) -> None:
    data = json.loads(run_json.render(report))
    assert [each["path"] for each in data["layers"]] == ["", "body.<i>0", "body"]
    assert data["layers"][1]["casts_per_step"]["forward"] > 0
    same(read(html.render(report)), data)


def test_the_skipped_steps_are_marked_where_they_were(report: RunReport) -> None:
    figure = read(html.render(report)).one("figure", "timeline")
    marked = [
        step
        for each in figure.all("rect", "skipped")
        for step in range(int(each.attributes["data-first"]), int(each.attributes["data-last"]) + 1)
    ]
    assert marked == [0, 1, 3]
    assert [e.text for e in figure.all("title")] == ["steps 0–1: 2 skipped", "step 3: 1 skipped"]


def test_every_skip_has_its_scales_and_culprits(report: RunReport) -> None:
    (told, _) = json.loads(run_json.render(report))["optimizers"]
    page = read(html.render(report))
    rows = page.one("table", "skips").all("tr")[1:]
    assert [int(row.attributes["data-first"]) for row in rows] == told["skipped_steps"]
    for row, skip in zip(rows, told["skips"], strict=True):
        assert values(row, "before") == [skip["scale_before"]]
        assert values(row, "after") == [skip["scale_after"]]
    named = [[link.text for link in row.all("a")] for row in rows]
    assert named == [["(model)"], ["body", "body.<i>0", "(model)"], []]
    assert ["and 2 more layers" in row.text for row in rows] == [False, True, False]
    assert "not known" in rows[2].text


def test_the_header(report: RunReport) -> None:
    page = read(html.render(report))
    header = page.one("header")
    assert header.one("h1").text == f"<b>&'train\".py --name {EVIL}"
    assert header.one("p", "path").text == SCRIPT
    assert header.one("div", "exception").one("pre").text == FACTS["exception"]
    assert header.one("div", "exception").one("a").attributes["href"] == "#MP104"
    assert "died with exit code 1" in header.text
    facts = {e.one("dt").text: e.one("dd").text for e in header.one("dl").all("div")}
    assert facts["started"] == "2026-11-22 17:44:00 UTC"
    assert facts["took"] == "1 min 2 s"
    assert facts["overhead"] == "2.5 s, 4.1% of the run"
    assert facts["versions"] == "python 3.11.7, mpaudit 0.1.0, torch 2.13.0"
    assert facts["not seen"] == EVIL
    assert page.one("head").one("title").text == "<b>&'train\".py · mpaudit"


def test_the_findings(report: RunReport) -> None:
    page = read(html.render(report))
    warning, error = page.all("article")
    assert (warning.attributes["id"], error.attributes["id"]) == ("MP104", "finding-1")
    assert error.one("p", "message").text == STEP.message.replace("`", "")
    assert error.one("p", "message").one("code").text == "scaler.step(optimizer)"
    (row,) = (each for each in error.all("span", "row") if each.all("mark", "error"))
    assert row.one("i").text == "5"
    assert row.one("mark").text == "scaler.step(optimizer)"
    assert row.text.endswith("  # </pre><script>\n")
    (label,) = error.all("span", "label")
    assert label.text == "└ scaled here\n"
    assert label.attributes["style"] == "--indent:4ch"
    link = error.one("a")
    assert page.one("tr", id=link.attributes["href"][1:]).attributes["data-layer"] == "body.<i>0"
    added = [each.text for each in warning.one("details").all("span", "added")]
    assert added == ["+    scaler.update()\n"]
    assert "the one shown for MP104 repairs this too" in error.text
    assert not error.all("details")


def test_only_where_it_began_is_marked_as_an_origin(report: RunReport) -> None:
    page = read(html.render(report))
    (origin,) = (row for row in page.all("tr") if row.all("b", "origin"))
    assert origin.attributes["data-layer"] == "body.<i>0"
    assert "trouble" in origin.attributes["class"]
    passed = page.one("tr", data_layer="")
    assert passed.one("b", "passed").text == "1 NaN"
    urgent, expected = page.one("section", id="incidents").all("table")
    assert [len(each.all("tr")) for each in (urgent, expected)] == [2, 2]
    assert "activation-overflow (inf, nan)" in urgent.text
    assert "steps 2–3" in urgent.text


def test_containers_are_told_apart(report: RunReport) -> None:
    rows = read(html.render(report)).one("table", "layers").all("tr")[2:]
    assert ["container" in row.attributes["class"] for row in rows] == [True, False, True]


def test_the_bars_reach_as_far_as_the_numbers(report: RunReport) -> None:
    page = read(html.render(report))
    (bar,) = page.one("tr", data_layer="").one("td", "forward").all("div", "bar")
    assert bar.attributes["style"] == "--at:82.5%"  # log2(511.75) is 33 of the 40 doublings up
    (bar,) = page.one("tr", data_layer="body.<i>0").one("td", "backward").all("div", "bar")
    assert bar.attributes["style"] == "--at:100.0%"


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        (Numbers(["float16"], amax=1.0), "fine"),
        (Numbers(["float16"], amax=65504 / 7.9), "near"),
        (Numbers(["float16"], amax=65504 / 8.1), "fine"),
        (Numbers(["float16"], amax=65504.0), "edge"),
        (Numbers(["float32"], amax=65504.0), "wide"),
        (Numbers(["bfloat16"], amax=1e30), "wide"),
        (Numbers(["float16", "float32"], [1.0, 1e6], amax=1e6), "fine"),
        (Numbers(["float16", "float32"], [65504 / 7.9, 1e6], amax=1e6), "near"),
        (Numbers(["bfloat16", "float32"], [1.0, 1e6], amax=1e6), "wide"),
        (Numbers(["float16"], inf=3), "wide"),
    ],
)
def test_risk(numbers: Numbers, kind: str) -> None:
    assert risk(numbers) == kind
    assert risk(replace(numbers, amax=65504.0), scaled=True) in ("fine", "wide")


# --- nothing is loaded, nothing is run, everything is shown as it is


def test_nothing_is_loaded_and_nothing_is_run(report: RunReport) -> None:
    text = html.render(report)
    page = read(text)
    policy = page.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    tags = {node.tag for node in page.walk()}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for node in page.walk():
        for name, value in node.attributes.items():
            assert name not in ("src", "srcset", "data", "action", "background", "poster")
            assert not name.startswith("on")
            assert name != "href" or value.startswith("#")
    (style,) = page.all("style")
    assert not re.search(r"url\(|@import|https?:|</", style.text)
    assert not re.search(r"https?://", text)


def test_every_link_leads_somewhere(report: RunReport) -> None:
    page = read(html.render(report))
    places = [each.attributes["id"] for each in page.walk() if "id" in each.attributes]
    assert len(places) == len(set(places))
    assert {each.attributes["href"][1:] for each in page.all("a")} <= set(places)


def test_what_would_hide_or_turn_is_shown_as_a_sign() -> None:
    assert visible("a\u202eb\x1b[31m\x00\udcff\n\tü") == "a�b�[31m��\n\tü"


def test_a_name_that_is_no_utf8_can_be_written(report: RunReport, tmp_path: Path) -> None:
    named = replace(report, meta={**report.meta, "script": "/x/\udcff.py", "exception": None})
    text = html.render(named)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    assert read(text).one("h1").text.startswith("�.py")


def test_a_run_without_anything(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "empty.mpa")
    writer.meta("complete", False)
    writer.close()
    with Reader(tmp_path / "empty.mpa") as reader:
        page = read(html.render(summarise(reader)))
    assert "died" in page.one("header").text
    assert "No layer was called." in page.one("section", id="layers").text
    assert "No optimizer stepped." in page.one("section", id="steps").text
    assert not page.all("svg")


# --- source


def test_an_excerpt_of_several_files_the_findings_own_first() -> None:
    there = Span("/project/other.py", Position(1, 1), Position(1, 2))
    found = replace(STEP, related=(*STEP.related, Related(there, "and there")))
    own, other = excerpts(found, {SCRIPT: TEXT})
    assert [row.number for row in own.rows] == [3, 4, 5]
    assert (other.rows, other.notes) == ((), [(there, "and there")])


def test_a_label_stands_where_its_stretch_starts() -> None:
    text = "x = '混', call(1)\ncall(2)\n"
    found = replace(STEP, span=at(2, 1, 8), related=(Related(at(1, 10, 17), "here"),))
    (excerpt,) = excerpts(found, {SCRIPT: text})
    first, second = excerpt.rows
    assert [(each.text, each.style) for each in first.pieces] == [
        ("x = '混', ", ""),
        ("call(1)", "evidence"),
    ]
    assert first.labels[0].indent == 10  # the ideograph is two columns wide
    assert [each.style for each in second.pieces] == ["error"]


def test_overlapping_stretches_keep_every_character() -> None:
    text = "scaler.step(optimizer)\n"
    found = replace(STEP, span=at(1, 8, 12), related=(Related(at(1, 1, 23), "all of it"),))
    ((row,),) = (each.rows for each in excerpts(found, {SCRIPT: text}))
    assert [(each.text, each.style) for each in row.pieces] == [
        ("scaler.", "evidence"),
        ("step", "error"),
        ("(optimizer)", "evidence"),
    ]


def test_rows_left_out_are_told_and_long_ones_are_cut() -> None:
    text = "\n".join(["first()", *["x"] * 20, f"{'a' * 500}call(){'b' * 500}"])
    found = replace(STEP, span=at(22, 501, 507), related=(Related(at(1, 1, 8), ""),))
    ((first, *_, last),) = (each.rows for each in excerpts(found, {SCRIPT: text}))
    assert (first.number, last.number) == (1, 22)
    assert [row.gap for row in excerpts(found, {SCRIPT: text})[0].rows] == [0, 1, 0, 0]
    assert [each.text for each in last.pieces] == [f"…{'a' * KEPT}", "call()", f"{'b' * KEPT}…"]


def test_a_place_without_width_marks_its_row() -> None:
    found = replace(STEP, span=at(4, 1, 1), related=())
    (excerpt,) = excerpts(found, {SCRIPT: TEXT})
    (row,) = (each for each in excerpt.rows if each.number == 4)
    assert [(each.text, each.style) for each in row.pieces] == [
        ("    ", ""),
        ("scaler.scale(loss).backward()", "error"),
    ]


def test_a_notebook_is_named_and_not_guessed() -> None:
    found = replace(STEP, span=replace(STEP.span, cell=3), related=())
    (excerpt,) = excerpts(found, {SCRIPT: TEXT})
    assert (excerpt.at.cell, excerpt.rows) == (3, ())


# --- the chart


def heights(path: str) -> list[tuple[float, float]]:
    """Where a path of M, H and V goes."""
    points: list[tuple[float, float]] = []
    for move, numbers in re.findall(r"([MHV])([-\d. ]+)", path):
        got = [float(each) for each in numbers.split()]
        if move == "M":
            points.append((got[0], got[1]))
        else:
            x, y = points[-1]
            points.append((got[0], y) if move == "H" else (x, got[0]))
    return points


def test_the_timeline_is_the_scale_at_each_step() -> None:
    exponents = [16, 15, 15, 10]
    steps = Steps(0, "SGD", [Attempts(0, i, i, True, 2.0**e) for i, e in enumerate(exponents)])
    drawn = chart.timeline(steps)
    assert drawn is not None
    heights_of = {tick.label: tick.at for tick in drawn.up}
    assert list(heights_of) == ["2⁹", "2¹¹", "2¹³", "2¹⁵", "2¹⁷"]
    octave = (heights_of["2⁹"] - heights_of["2¹⁷"]) / 8
    width = (drawn.right - drawn.left) / len(exponents)
    for step, exponent in enumerate(exponents):
        middle = drawn.left + (step + 0.5) * width
        (y,) = {b[1] for a, b in pairwise(heights(drawn.path)) if a[0] < middle <= b[0]}
        assert y == pytest.approx(heights_of["2⁹"] - octave * (exponent - 9), abs=0.1)
    assert [tick.label for tick in drawn.across] == ["0", "1", "2", "3", "4"]


def test_scales_that_have_no_place_leave_a_gap() -> None:
    scales = [2.0, 0.0, float("inf"), 4.0]
    steps = Steps(0, "SGD", [Attempts(0, i, i, True, scale) for i, scale in enumerate(scales)])
    drawn = chart.timeline(steps)
    assert drawn is not None
    assert drawn.path.count("M") == 2
    assert chart.timeline(Steps(0, "SGD", [Attempts(0, 0, 3, True, None)])) is None
    assert chart.timeline(Steps(0, "SGD", [Attempts(0, 0, 3, True, 0.0)])) is None


def test_a_long_run_makes_no_long_chart() -> None:
    attempts = [
        Attempts(0, i, i, applied=i % 3 != 0, scale=2.0 ** (8 + i * i % 7)) for i in range(50_000)
    ]
    attempts.append(Attempts(0, 50_000, 98_765, applied=True, scale=2048.0))
    drawn = chart.timeline(Steps(0, "SGD", attempts))
    assert drawn is not None
    assert len(drawn.path) < 50_000
    assert len(drawn.skipped) <= chart.WIDTH
    assert sum(each.count for each in drawn.skipped) == 16_667
    ys = [y for _, y in heights(drawn.path)]
    at = {tick.label: tick.at for tick in drawn.up}
    assert max(ys) == pytest.approx(at["2⁸"], abs=0.1)
    assert min(ys) == pytest.approx(at["2¹²"], abs=0.1)
    assert ys[-1] == pytest.approx(at["2¹¹"], abs=0.1)


@pytest.mark.parametrize("total", [1, 7, 8, 160, 999, 1000, 123_456_789])
def test_round_numbers_along_the_axis(total: int) -> None:
    steps = chart.timeline(Steps(0, "SGD", [Attempts(0, 0, total - 1, True, 1.0)]))
    assert steps is not None
    labels = [int(tick.label) for tick in steps.across]
    assert labels[0] == 0
    assert 2 <= len(labels) <= chart.TICKS
    assert labels[-1] <= total < 2 * labels[-1] or total < 10


# --- the command


def call(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in args])


def test_the_page_is_written_beside_the_trace(trace: Path) -> None:
    result = call("report", trace, "--format", "html")
    page = trace.with_name("mpaudit-html-mpaudit-train.py.1.html")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{page}\n", "")
    data = json.loads(call("report", trace, "--format", "json").stdout)
    same(read(page.read_text(encoding="utf-8")), data)


def test_the_user_decides_where(trace: Path) -> None:
    result = call("report", trace, "--format", "html", "-o", "page.html")
    assert (result.exit_code, result.stdout) == (0, "page.html\n")
    assert Path("page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(each.name for each in Path().iterdir()) == [trace.name, "page.html"]
    result = call("report", trace, "--format", "html", "-o", "no/such/page.html")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("mpaudit: no/such/page.html: the report cannot be written")


def test_without_jinja2_the_extra_is_named(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)  # what an environment without it looks like
    result = call("report", trace, "--format", "html")
    assert (result.exit_code, result.stdout) == (2, "")
    message = "HTML reports need the extra: pip install 'mpaudit[report]'"
    assert result.stderr == f"mpaudit: {message}\n"
    assert [each.name for each in Path().iterdir()] == [trace.name]
    assert call("report", trace).exit_code == 0


@pytest.mark.slow
def test_the_articles_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    root = Path(__file__).parents[1]
    script, trace = root / "fixtures" / "article" / "run_pytorch.py", tmp_path / "t.mpa"
    subprocess.run(
        [sys.executable, "-m", "mpaudit", "run", "-o", trace, script], cwd=root, capture_output=True
    )
    result = call("report", trace, "--format", "html")
    assert result.exit_code == 0, result.stderr
    text = (tmp_path / "mpaudit-html-t.html").read_text(encoding="utf-8")
    assert len(text.encode()) <= 300_000
    page = read(text)
    same(page, json.loads(call("report", trace, "--format", "json").stdout))
    confirmed = [e.attributes["data-rule"] for e in page.all("article") if e.all(cls="confirmed")]
    assert "missing-scaler-update" in confirmed
    assert page.one("div", "exception").one("a").text == "MP104 missing-scaler-update"
    assert chips(page.one("tr", data_layer="0"), "output") == ["float16"]


# --- in a browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def photograph(page: Path, *options: str) -> tuple[bytes, str]:
    """The pixels, row by row with their filter bytes, and what the browser complained about."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    shot = page.with_suffix(".png")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--window-size=1200,1600"]
    ran = subprocess.run(
        [*command, *options, f"--screenshot={shot}", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert shot.is_file(), ran.stderr
    data = shot.read_bytes()
    shot.unlink()
    return _pixels(data), "\n".join(e for e in ran.stderr.splitlines() if "CONSOLE" in e)


def _pixels(png: bytes) -> bytes:
    chunks, offset = [], 8
    while offset < len(png):
        size, kind = struct.unpack(">I4s", png[offset : offset + 8])
        if kind == b"IDAT":
            chunks.append(png[offset + 8 : offset + 8 + size])
        offset += size + 12
    return zlib.decompress(b"".join(chunks))


@pytest.mark.slow
def test_a_browser_shows_it_light_and_dark(trace: Path) -> None:
    assert call("report", trace, "--format", "html", "-o", "page.html").exit_code == 0
    page = Path("page.html").absolute()
    light, complaints = photograph(page)
    assert complaints == ""  # a policy that forbids the page's own style would be said here
    assert light[1:4] == bytes.fromhex("f6f7f9")  # the first pixel; its filter is byte 0
    dark, complaints = photograph(page, "--blink-settings=preferredColorScheme=0")
    assert complaints == ""
    assert dark[1:4] == bytes.fromhex("0f1318")


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.0, "0%"),
        (1e-6, "<0.001%"),
        (0.0123, "1.2%"),
        (0.99, "99%"),
        (0.9949, "99%"),
        (0.995, ">99%"),
        (1.0, "100%"),
    ],
)
def test_a_share_is_never_told_as_a_power_of_ten(share: float, told: str) -> None:
    assert html.percent(share) == told

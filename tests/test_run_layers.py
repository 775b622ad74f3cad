"""What the text report tells of the layers of a large model, and what of a small one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
from test_html import read as parsed  # noqa: E402
from torch import nn  # noqa: E402
from torch.optim.swa_utils import AveragedModel  # noqa: E402

from mpaudit import cli  # noqa: E402
from mpaudit.render import html, run_json, run_text  # noqa: E402
from mpaudit.runtime.summary import RunReport, summarise  # noqa: E402
from tests.watched import batches, model, trace, train  # noqa: E402

DEEP, LOUD, WIDE = 12, 7, 4  # blocks, the one that overflows, the one in float32


class Block(nn.Module):
    """A residual block whose inside is a container of its own."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 12), nn.ReLU())
        self.number = number

    def forward(self, x: Any) -> Any:
        if self.number == WIDE:
            with torch.autocast("cuda", enabled=False):
                return x + self.inside(x.float())
        return x + self.inside(x)


class Loud(nn.Module):
    """Its sum is beyond float16."""

    def forward(self, x: Any) -> Any:
        return x.half() * 60000.0 * 60000.0


class Label(nn.Module):
    """A part of a model that is called with no numbers."""

    def forward(self, name: str) -> str:
        return name.upper()


def large(*, loud: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    blocks: list[nn.Module] = [Block(number) for number in range(DEEP)]
    if loud:
        blocks[LOUD].inside.append(Loud())
    return nn.Sequential(*blocks, nn.Linear(12, 4))


def read(folder: Path, network: nn.Module) -> RunReport:
    def loop() -> None:
        train(network)
        label = Label()
        assert label("x") == "X"

    _, reader = trace(folder, loop)
    return summarise(reader)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> RunReport:
    return read(tmp_path_factory.mktemp("large"), large())


def section(text: str, title: str) -> list[str]:
    part = next(part for part in text.split("\n\n") if part.startswith(title))
    return part.splitlines()[1:]


def averaged(folder: Path, *, loud: bool, trained: bool = False) -> tuple[RunReport, float]:
    """The report of a training beside which another model of its kind is called, and the largest number
    that this one gives out."""
    network = large(loud=False)
    other = AveragedModel(large(loud=loud) if loud else network)
    largest: list[float] = []

    def loop() -> None:
        train(network)
        for part in other.module.modules():
            part.register_forward_hook(lambda *seen: largest.append(seen[-1].abs().max().item()))
        samples, labels = next(iter(batches(1)))
        result = other(samples)
        if trained:
            nn.functional.cross_entropy(result, labels).backward()

    return summarise(trace(folder, loop)[1]), max(largest)


def test_a_copy_of_the_model_that_is_not_trained_has_one_row(tmp_path: Path) -> None:
    report, largest = averaged(tmp_path, loud=False)
    rows = [line for line in run_text.render(report).splitlines() if "other.module" in line]
    layers = len(list(large(loud=False).modules()))
    told = f"{layers} layers as in the model, not trained (outputs float32, amax {largest:.3g})"
    assert rows == [f"  other.module: {told}: `--all`"]
    assert "  other.module.7.inside.1 " in run_text.render(report, whole=True)


def test_the_page_shows_the_layers_of_a_copy_where_that_is_asked_for(tmp_path: Path) -> None:
    report, _ = averaged(tmp_path, loud=False)
    page = parsed(html.render(report))
    rows = page.one("table", "layers").all("tr")[2:]
    layers = len(list(large(loud=False).modules()))
    copied = [row for row in rows if row.attributes["class"].split()[-1:] == ["copy"]]
    assert [row.attributes["data-layer"].partition(".")[0] for row in copied] == ["other"] * (
        layers - 1
    )
    (whole,) = [row for row in rows if "not trained" in row.text]
    assert whole.attributes["data-layer"] == "other.module"
    assert f"{layers} layers as in the model, not trained" in whole.text
    assert not {"copy", "container"} & set(whole.attributes["class"].split())
    assert len(page.all("input", id="copies")) == 1


@pytest.mark.parametrize("how", [{"loud": True}, {"loud": False, "trained": True}])
def test_one_that_is_trained_or_goes_wrong_keeps_its_rows(
    tmp_path: Path, how: dict[str, bool]
) -> None:
    report, _ = averaged(tmp_path, **how)
    short = run_text.render(report)
    assert "as in the model" not in short
    assert "  other.module" in short


def test_a_module_with_several_names_is_told_with_all_of_them(tmp_path: Path) -> None:
    """Its row is of all its calls: which of its places they were at is not kept."""
    seen: list[float] = []

    def loop() -> None:
        act = nn.SiLU()
        act.register_forward_hook(lambda *call: seen.append(call[-1].abs().max().item()))
        blocks = [nn.Sequential(nn.Linear(12, 12), act) for _ in range(6)]
        train(nn.Sequential(*blocks, nn.Linear(12, 4)))

    report = summarise(trace(tmp_path, loop)[1])
    (row,) = [each for each in report.layers if each.layer.type == "SiLU"]
    assert (row.layer.path, row.layer.calls, row.layer.calls_per_step) == ("0.1", len(seen), 6)
    assert row.forward.amax == max(seen)
    told = "0.1, 1.1, 2.1, 3.1 and 2 more"
    assert f"\n  one module, called by each of its names: {told}\n" in run_text.render(report)
    data = json.loads(run_json.render(report))
    found = {each["path"]: each["other_paths"] for each in data["layers"] if "other_paths" in each}
    assert found == {"0.1": [f"{number}.1" for number in range(1, 6)]}


def test_a_large_model_is_told_in_a_screen_or_two(report: RunReport) -> None:
    assert len(report.layers) > 60
    text = run_text.render(report)
    assert len(text.splitlines()) < 90
    assert "`--all`" in text


def test_layers_that_are_alike_share_a_row_and_the_odd_one_has_its_own(report: RunReport) -> None:
    head, *rows = section(run_text.render(report), "dtype flow of ")
    linear = [row.split("  ") for row in rows if "  Linear " in row]
    found = [tuple(filter(None, map(str.strip, row))) for row in linear]
    assert head.split()[:2] == ["layers", "type"]
    kinds = {row[0]: row[2:5] for row in found}
    assert kinds == {
        "0.inside.1 and 11 more": ("float32", "float16", "float32"),  # of 12 blocks, and the head
        f"{WIDE}.inside.1": ("float32", "float32", "float32"),
    }


def test_what_gets_no_numbers_has_no_row(report: RunReport) -> None:
    assert "Label" in {each.layer.type for each in report.layers}
    text = run_text.render(report)
    assert not [row for row in section(text, "dtype flow of ") if " Label " in row]
    assert [
        row
        for row in section(run_text.render(report, whole=True), "dtype flow")
        if " Label " in row
    ]


class Tiny(nn.Module):
    """A normalisation and a layer, all whose weights are too small for float16."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(12), nn.Linear(12, 4)
        for each in self.parameters():
            nn.init.constant_(each, 1e-6)

    def forward(self, x: Any) -> Any:
        return self.linear(self.norm(x))


def test_weights_that_nobody_casts_are_no_loss(tmp_path: Path) -> None:
    rows = section(run_text.render(read(tmp_path, Tiny())), "what float16 does worst by")
    weights = {row.split()[0] for row in rows if " weight " in row}
    assert weights == {"linear"}


def test_what_went_wrong_is_among_the_ranges_and_once(report: RunReport) -> None:
    rows = section(run_text.render(report), "range of values")
    paths = [row.split()[0] for row in rows if "forward" in row]
    assert f"{LOUD}.inside.3" in paths
    assert f"{LOUD}.inside" not in paths  # it hands on what the layer in it gave


def test_what_is_handed_on_is_told_once(report: RunReport) -> None:
    _, *rows = section(run_text.render(report), "range of values")
    told = {row.split()[0] for row in rows if " forward " in row}
    assert "0.inside.1" in told
    assert "0.inside.2" not in told
    ours = {each.layer.path: each.forward.amax for each in report.layers}
    assert ours["0.inside.1"] == ours["0.inside.2"]  # a ReLU after a layer


def test_all_is_told_to_those_who_ask(report: RunReport) -> None:
    text = run_text.render(report, whole=True)
    told = {row.split()[0] for row in section(text, "dtype flow per layer")[1:]}
    assert told == {each.layer.path or "(model)" for each in report.layers}
    assert "--all" not in text
    done = CliRunner().invoke(cli.main, ["report", str(report.path), "--all"])
    assert done.exit_code == 0, done.output
    assert all(f"\n  {path} " in done.output for path in told)


def test_a_small_model_has_all_its_layers_in_either(tmp_path: Path) -> None:
    small = read(tmp_path, model())
    assert run_text.render(small) == run_text.render(small, whole=True)
    assert len(batches()) == 6


def test_the_operations_in_float32_are_told_by_kind(report: RunReport) -> None:
    _, *rows = section(run_text.render(report), "16-bit values computed in float32")
    names = [row.split("  ")[1:] for row in rows]
    assert len(rows) <= 6, names

"""Casts that repeat others, against counts of torch's own operations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from watched import trace  # noqa: E402

from mpaudit.config import Selection  # noqa: E402
from mpaudit.render import run_json  # noqa: E402
from mpaudit.rule import rule  # noqa: E402
from mpaudit.verdict import read  # noqa: E402


class Casts(TorchDispatchMode):
    """Counts casts of parameters by shape."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation is torch.ops.aten._to_copy.default and isinstance(args[0], nn.Parameter):
            self.counts[tuple(args[0].shape)] += 1
        return operation(*args, **kwargs or {})


def unrolled(times: int, *, cache: bool, device: str, frozen: bool = False) -> None:
    """One step of a recurrent loop."""
    cell = nn.Linear(8, 8).to(device).requires_grad_(not frozen)
    head = nn.Linear(8, 2).to(device)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    dtype = torch.float16 if device == "cuda" else torch.bfloat16
    with torch.autocast(device, dtype=dtype, cache_enabled=cache):
        hidden = torch.ones(3, 8).to(device)
        for _ in range(times):
            hidden = torch.tanh(cell(hidden))
        loss = head(hidden).float().sum()
    loss.backward()
    optimizer.step()


def found(run: Any) -> list[Any]:
    return [each for each in run.problems() if each.rule == "repeated-cast"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("times", "cache", "frozen", "casts"),
    [(5, False, False, 5), (5, True, False, 1), (5, True, True, 5), (2, False, False, 2)],
)
def test_weights_of_a_layer_in_a_loop(
    tmp_path: Path, device: str, times: int, cache: bool, frozen: bool, casts: int
) -> None:
    with Casts() as own:  # torch's own policy on the CPU keeps and casts weights as CUDA's does
        unrolled(times, cache=cache, device="cpu", frozen=frozen)
    assert own.counts[(8, 8)] == own.counts[(8,)] == casts
    _, run = trace(tmp_path, lambda: unrolled(times, cache=cache, device=device, frozen=frozen))
    problems = found(run)
    assert len(problems) == (casts >= 3)
    for problem in problems:
        to = "float16" if device == "cuda" else "bfloat16"
        assert f"are cast from float32 to {to} {casts} times in one step" in problem.message
        again = 2 * (casts - 1)
        if device == "cpu":
            assert (
                f"{again} casts of a step, {(casts - 1) * (64 + 8) * 2} bytes"
                in problem.consequence
            )
        line = Path(problem.span.filename).read_text().splitlines()[problem.span.start.row - 1]
        assert "cell(hidden)" in line
    repeated = (run.meta.get("repeated_casts") or {}).get("", 0)  # the first model
    assert repeated == (2 * (casts - 1) if casts > 1 else 0)


def test_micro_batches_in_regions_of_their_own_repeat_nothing(tmp_path: Path) -> None:
    def loop() -> None:
        network = nn.Linear(8, 4)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(2):
            for _ in range(6):
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = network(torch.ones(3, 8)).float().sum()
                loss.backward()
            optimizer.step()

    _, run = trace(tmp_path, loop)
    assert found(run) == []
    (cast,) = [each for each in run.casts() if each.what == "parameter"]
    assert cast.count == 2 * 6 * 2  # they are there, weight and bias of each micro-batch


def test_one_input_of_many_layers(tmp_path: Path) -> None:
    def loop(count: int) -> None:
        experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(count))
        x = torch.ones(3, 8)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            sum(expert(x).sum() for expert in experts).backward()

    for count in (3, 7, 8):  # the query, key and value of one tensor are common
        folder = tmp_path / str(count)
        folder.mkdir()
        _, run = trace(folder, lambda count=count: loop(count))
        assert [f"{count} times" in each.message for each in found(run)] == [True] * (count > 7)


def test_a_weight_that_changes_is_another_one(tmp_path: Path) -> None:
    def loop() -> None:
        network = nn.Linear(8, 8)
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            for _ in range(4):
                network(torch.ones(3, 8))
                with torch.no_grad():
                    network.weight.mul_(0.9)
                    network.bias.add_(1)

    _, run = trace(tmp_path, loop)
    assert found(run) == []


def test_there_and_back(tmp_path: Path) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x: Any) -> Any:
            return self.inner(x.bfloat16().float())

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(4))

        def forward(self, x: Any) -> Any:
            for block in self.blocks:
                x = block(x.float())
            return x

    def loop() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            Net()(torch.ones(3, 8)).float().sum().backward()

    _, run = trace(tmp_path, loop)
    (problem, *_) = found(run)
    assert "casts back what was cast just before it" in problem.message


def test_it_is_advice_and_the_report_has_the_number(tmp_path: Path) -> None:
    assert not Selection().includes(rule("repeated-cast"))
    trace(tmp_path, lambda: unrolled(5, cache=False, device="cpu"))
    report = read(tmp_path / "run.mpa")
    assert report.findings == []
    (cell,) = [each for each in report.layers if each.layer.path == ""]
    assert run_json.layer(cell, report)["casts_per_step"]["repeated"] == 8

"""Gradients that float16 makes zero, against the same products in float64."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mpaudit.runtime.record import Layer
from mpaudit.runtime.underflow import Rounded, Underflow

ALL, NONE = Rounded(8, 8, 1.0, 1.0), Rounded(0, 8, 0.0, 1.0)
TAIL = Rounded(900, 1000, 0.01, 1.0)  # nine of ten numbers, and a hundredth of their sum
OVERFLOWN = Rounded(8, 8, 1.0, float("inf"))


def seen(steps: list[Rounded], scale: float | None = None) -> list[Any]:
    underflow = Underflow(lambda path: Layer(path, "Linear", 0, 0, 0, "train.py", 7), lambda: scale)
    for step, rounded in enumerate([*steps, NONE]):  # a step is judged when the next one begins
        underflow.add("0", "parameter", step, rounded)
    return list(underflow.problems())


def test_what_lasts_is_a_finding() -> None:
    (problem,) = seen([ALL] * 6 + [NONE] * 4)
    assert (problem.rule, problem.span.filename, problem.span.start.row) == (
        "gradient-underflow",
        "train.py",
        7,
    )
    assert "makes 60.0% of the gradients of the parameters of layer '0' zero" in problem.message
    assert "6 of 10 sampled steps" in problem.consequence
    assert "without loss scaling" in problem.consequence
    assert "at a loss scale of 256" in seen([ALL] * 6, 256.0)[0].consequence


@pytest.mark.parametrize(
    ("steps", "scale"),
    [
        ([TAIL] * 20, None),
        ([ALL] * 4, None),  # too few to tell
        ([ALL] * 9 + [NONE] * 11, None),  # a start
        ([NONE] * 11 + [ALL] * 9, None),  # the end of a training that has converged
        ([ALL] * 20, 4096.0),  # 2**-25 / 4096: nothing to an optimizer
        ([OVERFLOWN] * 20, None),
        ([Rounded()] * 20, None),  # zeros that are zeros
    ],
)
def test_what_is_no_finding(steps: list[Rounded], scale: float | None) -> None:
    assert seen(steps, scale) == []


torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from watched import trace  # noqa: E402


def train(arriving: Any, samples: Any, scale: float | None, steps: int = 9) -> Any:
    """The gradient `arriving` comes to a layer's output; returns that of its weight."""
    torch.manual_seed(0)
    layer = nn.Linear(12, 16, bias=False).cuda()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cuda", init_scale=scale or 1.0, enabled=scale is not None)
    gradient = None
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cuda"):
            output = layer(samples.cuda())
        scaler.scale((output.float() * arriving.cuda()).sum()).backward()
        gradient = layer.weight.grad.clone()
        scaler.step(optimizer)
        scaler.update()
    return gradient


@pytest.mark.parametrize("scale", [None, 2.0, 64.0])
def test_the_shares_are_those_of_the_exact_products(tmp_path: Path, scale: float | None) -> None:
    samples = torch.randn(64, 12) * 1e-2
    arriving = torch.ones(64, 1) * torch.logspace(-9, -5, 16)
    gradient, run = trace(tmp_path, lambda: train(arriving, samples, scale))
    scaled = (arriving * (scale or 1.0)).half().double()
    exact = scaled.T @ samples.half().double()
    gone = (exact != 0) & (exact.half() == 0)
    assert torch.equal(gone | (exact == 0), gradient == 0)
    flushed = gone.sum() / (exact != 0).sum()
    lost = exact[gone].abs().sum() / exact.abs().sum()
    assert 0 < lost < 1
    problems = [each for each in run.problems() if each.rule == "gradient-underflow"]
    assert len(problems) == (lost >= 0.1)
    for problem in problems:
        assert f"{flushed:.1%} of the gradients of the parameters of layer ''" in (
            problem.message.replace("the model", "layer ''")
        )
        told = re.search(r"([\d.]+)% of their sum", problem.message)
        assert told is not None
        assert float(told[1]) == pytest.approx(100 * float(lost), abs=0.06)
        assert "8 of 8 sampled steps" in problem.consequence  # the ninth is not over


def test_the_gradient_that_comes_out_of_a_loss_in_float32(tmp_path: Path) -> None:
    def loop(scale: float) -> Any:
        torch.manual_seed(0)
        layer = nn.Linear(12, 4).cuda()
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        criterion = nn.MSELoss()
        scaler = torch.amp.GradScaler("cuda", init_scale=scale)
        before = layer.weight.detach().clone()
        for _ in range(9):
            optimizer.zero_grad()
            with torch.autocast("cuda"):
                loss = criterion(layer(torch.randn(8, 12).cuda()), torch.zeros(8, 4).cuda()) * 1e-7
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        return bool(torch.equal(before, layer.weight))

    (tmp_path / "low").mkdir()
    untouched, run = trace(tmp_path / "low", lambda: loop(1.0))
    assert untouched
    (problem,) = run.problems()
    assert problem.rule == "gradient-underflow"
    assert "100.0% of the gradients of the inputs of layer 'criterion' zero" in problem.message
    line = Path(problem.span.filename).read_text().splitlines()[problem.span.start.row - 1]
    assert "criterion(layer(" in line
    untouched, run = trace(tmp_path, lambda: loop(65536.0))
    assert not untouched
    assert run.problems() == []

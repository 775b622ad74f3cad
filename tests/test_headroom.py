"""Outputs that come near the end of float16, against series written out here and own hooks."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from mpaudit.runtime.headroom import ENOUGH, Headroom, trend
from mpaudit.runtime.record import Layer
from mpaudit.runtime.sampling import Turns

TOP = 65504.0


def seen(peaks: list[float], calls: int = 1) -> list[Any]:
    headroom = Headroom(lambda path: Layer(path, "Linear", 0, 0, 0, "train.py", 7))
    for step, amax in enumerate(peaks):
        for _ in range(calls):
            headroom.add("0", step, amax, finite=math.isfinite(amax))
    return list(headroom.problems())


def test_a_rise_by_the_same_amount_goes_on_like_that() -> None:
    found = trend([400.0 * step for step in range(1, 101)])
    assert found is not None
    assert found.now == 40000.0
    assert found.bits == math.log2(TOP / 40000)
    assert found.left == pytest.approx((TOP - 40000) / 400)


def test_a_rise_by_the_same_factor_goes_on_like_that() -> None:
    found = trend([2.0 ** (step / 10) for step in range(140)])
    assert found is not None
    assert found.left == pytest.approx(10 * (16 - 13.9), abs=1)


@pytest.mark.parametrize("count", [40, 128, 129, 1000, 100_000])
def test_a_long_run_is_kept_in_few_numbers(count: int) -> None:
    (problem,) = seen([40000 * (step + 1) / count for step in range(count)])
    assert (problem.rule, problem.span.start.row) == ("low-headroom", 7)
    assert "is at 40000 and rises: 0.7 bits" in problem.message
    told = re.search(r"overflows in about (\d+) more", problem.consequence)
    assert told is not None
    assert int(told[1]) == pytest.approx((TOP - 40000) / (40000 / count), rel=0.1)


@pytest.mark.parametrize(
    "peaks",
    [
        [40000.0] * 200,  # large, and it stays there
        [100.0 * step for step in range(1, 100)] + [9900.0] * 100,  # a rise that is over
        [4000.0 + step for step in range(200)],  # not within as many steps again
        [step / 10 for step in range(200)],
        [65504.0] * 200,  # a mask of the lowest number there is
        [30000.0 + 20000.0 * (step % 2) for step in range(200)],
        [1000.0] * 150 + [60000.0] * 3 + [1000.0] * 47,  # a spike
        [50000.0 - 100 * step for step in range(200)],
        [2000.0 * step for step in range(1, 20)],  # too few
        [400.0 * step for step in range(1, 100)] + [math.inf],  # that is activation-overflow
    ],
)
def test_what_is_no_finding(peaks: list[float]) -> None:
    assert seen(peaks) == []


@pytest.mark.parametrize("every", [1, 10, 25, 70])
@pytest.mark.parametrize("count", [120, 800, 5000])
def test_a_forecast_is_in_steps_of_the_training_however_few_are_looked_at(
    every: int, count: int
) -> None:
    turns = Turns(every)
    looked = [step for step in range(count) if turns.due(step)]
    for faster in (False, True):
        headroom = Headroom(lambda path: Layer(path, "Linear", 0, 0, 0, "train.py", 7))
        grown = [40000 * math.exp(3 * (step / count - 1)) for step in range(count)]
        rise = grown if faster else [40000 * (step + 1) / count for step in range(count)]
        for step in looked:
            headroom.add("0", step, rise[step], finite=True)
        if len(looked) < ENOUGH:
            assert list(headroom.problems()) == []
            continue
        (problem,) = headroom.problems()
        now = rise[looked[-1]]
        left = (TOP - now) / (40000 / count)
        if faster:
            left = math.log(TOP / now) / (3 / count)
        assert f"is at {now:.5g} and rises" in problem.message
        assert f"quarter of {looked[-1] + 1} steps" in problem.consequence
        told = re.search(r"overflows in about (\d+) more", problem.consequence)
        assert told is not None
        assert int(told[1]) == pytest.approx(left, rel=0.12), faster
        (course,) = headroom.courses(last=True)
        assert course.steps == looked[-1] + 1
        stretches = [
            [rise[step] for step in looked if step // course.width == place]
            for place in range(len(course.peaks))
        ]
        assert list(course.peaks) == pytest.approx([max(each) for each in stretches])


def test_several_calls_in_a_step_are_one_step() -> None:
    rise = [400.0 * step for step in range(1, 101)]
    once, often = seen(rise), seen(rise, calls=3)
    assert [each.message for each in once] == [each.message for each in often]
    assert [each.consequence for each in once] == [each.consequence for each in often]


torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from watched import trace  # noqa: E402


@pytest.mark.parametrize(("unit", "found"), [(1.0, True), (80000.0, False)])
def test_a_model_that_learns_what_float16_cannot_hold(
    tmp_path: Path, unit: float, found: bool
) -> None:
    own: list[float] = []

    def loop() -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1)).cuda()
        network[2].register_forward_hook(lambda *a: own.append(a[2].detach().abs().max().item()))
        optimizer = torch.optim.SGD(network[2].parameters(), lr=2e-3)
        for _ in range(50):
            x = torch.randn(64, 16).cuda()
            with torch.autocast("cuda"):
                outputs = network(x)
                loss = (outputs.float() - 80000 / unit).square().mean()
            (loss / 4096).backward()
            for each in network.parameters():
                each.grad *= 4096
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad(), torch.autocast("cuda"):
                network(1000 * x)  # an evaluation is no trend
        own[:] = own[::2]

    _, run = trace(tmp_path, loop)
    problems = [each for each in run.problems() if each.rule == "low-headroom"]
    assert len(problems) == found
    for problem in problems:
        now = max(own[-12:])
        assert (
            f"layer '2' is at {now:.5g} and rises: {math.log2(TOP / now):.1f} bits"
            in problem.message
        )
        assert f"was at {max(own[:12]):.5g} in the first quarter of 50 steps" in problem.consequence
        late, middle = sorted(own[-12:]), sorted(own[-24:-12])
        rise = sum(late[5:7]) / 2 - sum(middle[5:7]) / 2
        told = re.search(r"about (\d+) more", problem.consequence)
        assert told is not None
        assert int(told[1]) == pytest.approx((TOP - now) / rise * 12.5, abs=1)
        line = Path(problem.span.filename).read_text().splitlines()[problem.span.start.row - 1]
        assert "outputs = network(x)" in line

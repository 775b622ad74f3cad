"""Layers between dtypes: each sentence about what went wrong names the dtype of what it speaks of."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from watched import trace  # noqa: E402

from mpaudit import verdict  # noqa: E402
from mpaudit.limit import limits, told  # noqa: E402
from mpaudit.render import run_json, run_text  # noqa: E402


class Squares(nn.Module):
    """Half numbers in, float32 out: what overflows in between is float16."""

    def forward(self, value: Any) -> Any:
        return torch.log1p((value * value).mean(1, keepdim=True))


class Widened(nn.Module):
    """Float32 out of either."""

    def forward(self, value: Any, bias: Any) -> Any:
        return (value * 1e3 + bias) * 1e38


def plain(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def layers() -> dict[str, tuple[Any, Any]]:
    """A layer that overflows, and what it is called with."""
    torch.manual_seed(0)
    linear = nn.Linear(4, 4)
    nn.init.constant_(linear.weight, 2e4)
    half, wide = torch.full((2, 4), 600.0).half(), torch.full((2, 4), 600.0)
    return {
        "half to half": (linear, (half,)),
        "float32 to half": (linear, (wide,)),
        "half to float32": (Squares(), (half,)),
        "both to float32": (Widened(), (half, wide)),
    }


@pytest.mark.parametrize("name", layers())
@pytest.mark.parametrize("every", [1, 12])
def test_an_overflow(tmp_path: Path, name: str, every: int) -> None:
    """At step 0 all is looked at; at the other one only outputs are."""
    layer, inputs = layers()[name]
    seen: list[tuple[set[str], str, bool]] = []

    def hook(_: Any, given: Any, result: Any) -> None:
        finite = all(bool(each.isfinite().all()) for each in given)
        seen.append(({plain(each.dtype) for each in given}, plain(result.dtype), finite))
        assert not result.isfinite().all()

    def loop() -> None:
        other = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
        layer.cuda()
        for _ in range(every):
            other(torch.ones(1, 1)).sum().backward()
            optimizer.step()
        handle = layer.register_forward_hook(hook)
        with torch.autocast("cuda", dtype=torch.float16):
            layer(*(each.cuda() for each in inputs))
        handle.remove()

    _, run = trace(tmp_path, loop)
    ((given, made, finite),) = seen
    assert finite
    (problem,) = [each for each in run.problems() if each.rule == "activation-overflow"]
    others = " and ".join(sorted(given))
    expected = f"from finite inputs in {made}"
    if given != {made}:
        expected = f"in {made} from finite inputs in {others}"
    assert f"makes inf {expected}" in problem.message


def test_what_was_computed_before_a_call(tmp_path: Path) -> None:
    """It comes in float16 into a layer that gives out float32."""

    def loop() -> None:
        first, last = nn.Linear(4, 4).cuda(), nn.LayerNorm(4).cuda()
        optimizer = torch.optim.SGD([*first.parameters(), *last.parameters()], lr=0.1)
        with torch.autocast("cuda", dtype=torch.float16):
            value = first(torch.ones(2, 4).cuda()) * 6e4 * 6e4
            assert (value.dtype, bool(value.isfinite().all())) == (torch.float16, False)
            result = last(value)
        assert result.dtype is torch.float32
        result.sum().backward()
        optimizer.step()

    _, run = trace(tmp_path, loop)
    (problem,) = [each for each in run.problems() if each.rule == "activation-overflow"]
    assert "in float16 comes into layer 'last' that no layer made" in problem.message
    assert "the largest float16 is 65504" in problem.consequence


class Cast(torch.autograd.Function):
    """A cast to float32 whose gradient is too large for float16."""

    @staticmethod
    def forward(_: Any, value: Any) -> Any:
        return value.float()

    @staticmethod
    def backward(_: Any, grad: Any) -> Any:
        return (grad * 1e6).half()


class Wide(nn.Module):
    def forward(self, value: Any) -> Any:
        return Cast.apply(value)


def test_a_gradient(tmp_path: Path) -> None:
    """From a finite one in float32 a layer makes one in float16 that is not, at every loss scale."""

    def loop() -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 4), Wide()).cuda()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cuda", init_scale=4.0)
        for _ in range(12):
            optimizer.zero_grad()
            with torch.autocast("cuda", dtype=torch.float16):
                loss = network(torch.ones(2, 4).cuda()).sum() * 1e3
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

    _, run = trace(tmp_path, loop)
    (problem,) = [each for each in run.problems() if each.rule == "gradient-overflow"]
    assert problem.moment is not None
    assert problem.moment.layer == "1"
    assert "makes inf in float16 from a finite gradient in float32" in problem.message


def test_headroom_is_that_of_the_outputs_in_float16(tmp_path: Path) -> None:
    """A layer is trained in float16, and evaluated in float32 with numbers that would not fit."""
    largest: dict[str, float] = {}

    def hook(_: Any, __: Any, result: Any) -> None:
        name, now = plain(result.dtype), result.detach().float().abs().max().item()
        largest[name] = max(largest.get(name, 0.0), now)

    def loop() -> None:
        torch.manual_seed(0)
        network = nn.Linear(4, 4).cuda()
        network.register_forward_hook(hook)
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast("cuda", dtype=torch.float16):
                loss = network(torch.randn(2, 4).cuda()).float().square().mean()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            network(1e6 * torch.ones(2, 4).cuda())

    trace(tmp_path, loop)[1].close()
    report = verdict.read(tmp_path / "run.mpa")
    assert largest["float32"] > 65504.0 > largest["float16"]
    bits = math.log2(65504.0 / largest["float16"])
    (layer,) = json.loads(run_json.render(report))["layers"]
    assert layer["forward"]["amax"] == largest["float32"]
    assert layer["forward"]["headroom_bits"] == bits
    row = f"{largest['float16']:.3g}, {largest['float32']:.3g}"
    line = next(each for each in run_text.render(report).splitlines() if row in each)
    assert "float16, float32" in line
    assert f"{bits:.1f} bits" in line
    said: list[str] = []
    assert told(report, limits([f"headroom={bits + 0.1}"]), said.append)
    assert not told(report, limits([f"headroom={bits - 0.1}"]), said.append)
    assert len(said) == 1


def test_an_output_that_overflows_is_nearer_to_the_end_than_any_limit(tmp_path: Path) -> None:
    layer, (half,) = layers()["half to half"]

    def loop() -> None:
        layer.cuda()
        with torch.autocast("cuda", dtype=torch.float16):
            layer(half.cuda().fill_(0.01))
            layer(half.cuda())

    trace(tmp_path, loop)[1].close()
    said: list[str] = []
    assert told(verdict.read(tmp_path / "run.mpa"), limits(["headroom=0.5"]), said.append)
    assert said == ["--fail-on headroom=0.5: the model's output overflows in float16"]

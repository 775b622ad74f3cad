"""Operations that autocast computes in float32 though 16-bit values come in: which, why, how often."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from watched import trace  # noqa: E402

from mpaudit.render import run_json, run_text  # noqa: E402
from mpaudit.verdict import read  # noqa: E402

HALVES = (torch.float16, torch.bfloat16)


class Call(nn.Module):
    """A layer that does one thing."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, value: Any) -> Any:
        return self.function(value)


def layers(device: str) -> dict[str, nn.Module]:
    wide = torch.ones(4, 8)
    return {
        "linear": nn.Linear(8, 8),
        "norm": nn.LayerNorm(8),
        "softmax": nn.Softmax(-1),
        "addcmul": Call(lambda half: torch.addcmul(wide, half, half)),
        "cat": Call(lambda half: torch.cat([half, wide])),
        "squared": Call(lambda half: nn.functional.mse_loss(half, half)),
        "relu": nn.ReLU(),
        "by hand": Call(lambda half: half.float().tanh()),
        "wide": Call(lambda _: nn.functional.mse_loss(wide, wide)),
    }


EXPECTED = {
    "cuda": {  # CUDA's lists, on the emulated GPU
        "norm": [("layer_norm", "listed")],
        "softmax": [("softmax", "listed")],
        "addcmul": [("addcmul", "operand")],
        "squared": [("mse_loss", "listed")],
    },
    "cpu": {  # torch's own lists for the CPU
        "addcmul": [("addcmul", "operand")],
        "cat": [("cat", "operand")],
        "squared": [("mse_loss", "listed")],
    },
}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_operations_in_float32_and_why(tmp_path: Path, device: str) -> None:
    widened: set[str] = set()
    steps = 2

    def loop() -> None:
        torch.manual_seed(0)
        network = nn.ModuleDict(layers(device)).to(device)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        dtype = torch.float16 if device == "cuda" else torch.bfloat16
        for _ in range(steps):
            with torch.autocast(device, dtype=dtype):
                half = network["linear"](torch.ones(4, 8))
                assert half.dtype in HALVES
                for name, layer in network.items():
                    if name != "linear" and layer(half).dtype is torch.float32:
                        widened.add(name)
            half.float().sum().backward()
            optimizer.step()

    trace(tmp_path, loop)
    rows = [
        line.split(maxsplit=3) for line in run_text.render(read(tmp_path / "run.mpa")).splitlines()
    ]
    assert ["addcmul", "addcmul", "1", "another operand is float32"] in rows
    assert ["squared", "mse_loss", "1", "autocast does so with it"] in rows
    found = {
        layer["path"]: layer["float32_operations"]
        for layer in json.loads(run_json.render(read(tmp_path / "run.mpa")))["layers"]
        if layer["float32_operations"]
    }
    assert {
        path: [(each["operation"], each["why"]) for each in rows] for path, rows in found.items()
    } == EXPECTED[device]
    assert {each["per_step"] for rows in found.values() for each in rows} == {1.0}
    assert set(found) <= widened  # and each of them gave float32 for a half
    assert widened - set(found) <= {"by hand", "wide", "cat"}

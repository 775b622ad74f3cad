"""What goes into a normalisation is read where that is not finite: nothing that goes wrong is missed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from watched import trace  # noqa: E402

NORMS = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(6), (5, 6)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(6), (5, 6, 3, 4)),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(6), (5, 6, 2, 3, 4)),
    "LayerNorm": (lambda: nn.LayerNorm(6), (5, 6)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), (5, 6, 3, 4)),
}
INF = float("inf")
LAST, BAD = 30, 25


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("weight", [1.0, 0.0, -2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", NORMS)
def test_what_is_not_finite_does_not_become_finite(
    name: str, dtype: Any, weight: float, training: bool, lasting: bool
) -> None:
    make, shape = NORMS[name]
    norm = make().to(dtype).train(training)
    nn.init.constant_(norm.weight, weight)
    generator = torch.Generator().manual_seed(0)
    for bad in (INF, -INF, float("nan")):
        given = torch.randn(shape, generator=generator).to(dtype)
        given.view(-1)[7] = bad
        if lasting and len(shape) == 4:
            given = given.to(memory_format=torch.channels_last)
        assert not norm(given).isfinite().all()


class Net(nn.Module):
    """A layer in front of a normalisation; another way is taken in step `other`, if any."""

    def __init__(self, other: int | None = None, change: Any = None) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)
        self.steps, self.other, self.change = 0, other, change

    def forward(self, value: Any) -> Any:
        value = self.first(value)
        if self.steps == self.other:
            return self.last(self.change(value))
        return self.last(self.norm(value))


def train(network: Any, spoil: Any = None, mixed: Any = None) -> None:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for network.steps in range(LAST):
        if network.steps == BAD and spoil is not None:
            spoil(network)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=mixed or torch.bfloat16, enabled=mixed is not None):
            loss = network(torch.randn(8, 6, generator=generator)).float().square().mean()
        loss.backward()
        optimizer.step()


def origin(folder: Path, network: Any, spoil: Any, mixed: Any = None) -> tuple[str, int]:
    _, run = trace(folder, lambda: train(network, spoil, mixed))
    with run:
        first, *_ = run.incidents()
    return first.layer, first.first_step


def spoil_first(network: Any) -> None:
    with torch.no_grad():
        network.first.weight.fill_(3e38)


def spoil_norm(network: Any) -> None:
    with torch.no_grad():
        network.norm.bias[2] = INF


@pytest.mark.parametrize("mixed", [None, torch.bfloat16])
@pytest.mark.parametrize(("spoil", "layer"), [(spoil_first, "first"), (spoil_norm, "norm")])
def test_the_layer_where_it_begins_is_named(
    tmp_path: Path, spoil: Any, layer: str, mixed: Any
) -> None:
    assert origin(tmp_path, Net(), spoil, mixed) == (layer, BAD)


@pytest.mark.parametrize("change", [torch.sigmoid, torch.relu, torch.Tensor.sigmoid])
def test_where_another_way_is_taken_the_layer_is_read(tmp_path: Path, change: Any) -> None:
    """What the next layer gives out is finite: nothing but the layer itself tells of it."""
    network = Net(BAD, lambda value: change(-value.abs()))
    assert origin(tmp_path, network, spoil_first) == ("first", BAD)


def test_where_it_is_changed_in_place_before_it_is_read_the_next_steps_are_looked_at(
    tmp_path: Path,
) -> None:
    network = Net(BAD, lambda value: value.mul_(2.0))
    _, run = trace(tmp_path, lambda: train(network))
    with run:
        rows = {each.layer: each for each in run.statistics() if each.phase == "backward"}
    looked_at = {*range(10), 10, 16, 20, *range(BAD, LAST)} - {BAD}
    assert rows["last"].calls == len(looked_at)


def test_in_float16_the_largest_magnitude_is_read_in_every_step(tmp_path: Path) -> None:
    network = Net()
    _, run = trace(tmp_path, lambda: train(network, mixed=torch.float16))
    with run:
        rows = {each.layer: each for each in run.statistics() if each.phase == "forward"}
    assert rows["first"].calls == LAST

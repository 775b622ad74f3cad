"""What is told of a ReLU without reading its output is what reading it tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from mpaudit.protocols import machines  # noqa: E402
from mpaudit.runtime.sampling import Sampling  # noqa: E402
from mpaudit.runtime.torch import probe as torch_probe  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402
from mpaudit.runtime.tracer import Tracer  # noqa: E402

STEPS, BAD = 14, {11: float("inf"), 12: float("nan")}


class Added(nn.Module):
    """The sum is taken in place, behind the layer that was looked at last."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(6, 6), nn.ReLU(inplace=True)

    def forward(self, value: Any) -> Any:
        out = self.linear(value)
        out += value - 3.0
        return self.act(out)


class Changed(nn.Module):
    """What a layer made is changed without the graph knowing."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(6, 6), nn.ReLU(inplace)

    def forward(self, value: Any) -> Any:
        value = self.linear(value)
        value.detach().mul_(2.0)
        return self.act(value)


class Capped(nn.ReLU):
    def forward(self, value: Any) -> Any:
        return functional.relu(value).clamp(max=0.25)


class Twice(nn.Module):
    """One ReLU for two tensors, of which the one is not the last that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Linear(6, 6), nn.Linear(6, 6), nn.ReLU()

    def forward(self, value: Any) -> Any:
        first = self.first(value)
        return self.act(self.second(value)) + self.act(first)


def hooked(module: nn.ReLU) -> nn.ReLU:
    module.register_forward_hook(lambda _, __, result: result * 3.0)
    module.register_forward_pre_hook(lambda _, given: (given[0] + 1.0,))
    return module


def replaced(module: nn.ReLU) -> nn.ReLU:
    module.forward = lambda value: functional.relu(value - 0.5) * 5.0  # type: ignore[method-assign]
    return module


NETS = {
    "plain": lambda: [nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(inplace=True)],
    "again": lambda: [nn.Linear(6, 6), nn.ReLU(), nn.Identity(), nn.ReLU(), nn.Dropout(0.3)],
    "added": lambda: [Added(), Added()],
    "changed": lambda: [Changed(inplace=True), Changed(inplace=False)],
    "other": lambda: [nn.Linear(6, 6), Capped(), nn.Linear(6, 6), hooked(nn.ReLU())],
    "own": lambda: [nn.Linear(6, 6), replaced(nn.ReLU()), nn.BatchNorm1d(6), nn.ReLU(inplace=True)],
    "twice": lambda: [Twice(), nn.Flatten(), nn.ReLU()],
    "negative": lambda: [nn.Linear(6, 6), nn.Softplus(), nn.Threshold(9.0, -4.0), nn.ReLU()],
}


def train(name: str, seen: dict[str, list[Any]] | None = None) -> list[str]:
    """Train; `seen` gets the outputs that each layer had, by hooks that run behind all others."""
    torch.manual_seed(0)
    model = nn.Sequential(*NETS[name]())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    if seen is not None:
        for path, module in model.named_modules():
            seen[path] = []
            module.register_forward_hook(
                lambda _, __, result, path=path: seen[path].append(result.detach().clone())
            )
    for step in range(STEPS):
        for training in (True, False):  # and what is only evaluated
            model.train(training)
            with torch.set_grad_enabled(training):
                given = torch.randn(5, 6) * 10
                given[1, 2] = BAD.get(step, 0.0)
                result = model(given)
        model.train()
        loss = model(torch.randn(5, 6)).square().mean() + result.sum() * 0
        losses.append(repr(loss.item()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in BAD:
            with torch.no_grad():
                for each in model.parameters():
                    each.nan_to_num_(0.01, 0.01, 0.01)
                for each in model.buffers():
                    each.fill_(1)
    return losses


def numbers(name: str, every: int | None, path: Path) -> tuple[list[str], dict[str, Any]]:
    """The losses of a watched training, and what is told of the outputs of its layers."""
    tracer = Tracer(path, machines(), Sampling(every))
    uninstall = torch_probe.install(tracer, "cpu", lambda _: None)
    try:
        losses = train(name)
    finally:
        uninstall()
        tracer.close(0)
    assert tracer.fact("probe_errors") == []
    with Reader(path) as run:
        return losses, {each.layer: each for each in run.statistics() if each.phase == "forward"}


@pytest.mark.parametrize("every", [1, None])
@pytest.mark.parametrize("name", NETS)
def test_numbers_of_outputs(name: str, every: int | None, tmp_path: Path) -> None:
    seen: dict[str, list[Any]] = {}
    plain = train(name, seen)
    losses, rows = numbers(name, every, tmp_path / "run.mpa")
    assert losses == plain
    hooks_of_its_own = {"3"} if name == "other" else set()  # they run behind those of all modules
    for path in seen.keys() - hooks_of_its_own:
        finite = [each[each.isfinite()] for each in seen[path]]
        assert rows[path].amax == max(each.abs().max().item() for each in finite if len(each)), path
        assert rows[path].inf == sum(int(each.isinf().sum()) for each in seen[path]), path
        assert rows[path].nan == sum(int(each.isnan().sum()) for each in seen[path]), path
        assert rows[path].elements == sum(each.numel() for each in seen[path]), path

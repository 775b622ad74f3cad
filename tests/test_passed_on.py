"""Gradients that go wrong behind the last layer, and how operations between layers pass them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from watched import trace  # noqa: E402

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


class Block(nn.Module):
    """Gated, and beside a residual sum, as in a language model."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.gate, self.up, self.down = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, value: Any) -> Any:
        seen = self.norm(value)
        return value + self.down(self.gate(seen).sigmoid() * self.up(seen))


class Net(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.blocks = nn.ModuleList([Block(), Block(), Block()])
        self.head = nn.Linear(8, 4)
        self.reentrant = reentrant

    def forward(self, value: Any) -> Any:
        value = self.first(value)
        for block in self.blocks:
            if self.reentrant is None:
                value = block(value)
            else:
                value = checkpoint(block, value, use_reentrant=self.reentrant)
        return self.head(value)


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_what_operations_between_layers_pass_on_began_at_the_first(
    tmp_path: Path, reentrant: bool | None
) -> None:
    def loop() -> None:
        torch.manual_seed(0)
        network = Net(reentrant).cuda()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cuda")
        for step in range(4):
            for _ in range(2):
                with torch.autocast("cuda", torch.float16):
                    out = network(torch.randn(4, 8, device="cuda"))
                loss = out.float().square().mean() * (1e6 if step == 1 else 1)
                scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

    _, run = trace(tmp_path, loop)
    (incident,) = run.incidents()
    assert (incident.layer, incident.judgement) == ("head", "benign")
    assert (incident.first_step, incident.last_step) == (1, 1)


def test_each_of_two_models_says_where_its_own_began(tmp_path: Path) -> None:
    def loop() -> None:
        torch.manual_seed(0)
        networks = Net(None).cuda(), Net(None).cuda()
        optimizers = [torch.optim.SGD(each.parameters(), lr=0.01) for each in networks]
        scaler = torch.amp.GradScaler("cuda")
        for step in range(3):
            for each in networks:
                with torch.autocast("cuda", torch.float16):
                    out = each(torch.randn(4, 8, device="cuda"))
                scaler.scale(out.float().square().mean() * (1e6 if step == 1 else 1)).backward()
            for optimizer in optimizers:
                scaler.step(optimizer)
                optimizer.zero_grad()
            scaler.update()

    _, run = trace(tmp_path, loop)
    assert sorted(each.layer.rpartition(".")[2] for each in run.incidents()) == ["head", "head"]
    assert {each.judgement for each in run.incidents()} == {"benign"}

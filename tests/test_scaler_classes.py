"""Scalers with methods of their own: FSDP's has three in place of torch's, and people write them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import distributed, nn  # noqa: E402
from watched import ROOT, traced  # noqa: E402

from mpaudit.runtime.trace import Reader  # noqa: E402

STEPS, BAD = 14, {4, 9}


class Plain(torch.amp.GradScaler):
    """It changes nothing."""


class Multiplying(torch.amp.GradScaler):
    """`scale` is its own, and does not call that of torch."""

    def scale(self, outputs: Any) -> Any:
        if self._scale is None:
            self._lazy_init_scale_growth_tracker(outputs.device)
        return outputs * self._scale


class Halving(torch.amp.GradScaler):
    """`update` is its own: it halves, and never grows."""

    def update(self, new_scale: Any = None) -> None:
        found = [
            each
            for state in self._per_optimizer_states.values()
            for each in state["found_inf_per_device"].values()
        ]
        if any(each.item() for each in found):
            self._scale *= 0.5
        self._per_optimizer_states.clear()


class Clipping(torch.amp.GradScaler):
    """`step` unscales and clips, and calls that of torch."""

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        self.unscale_(optimizer)
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        return super().step(optimizer, *args, **kwargs)


class Talking(torch.amp.GradScaler):
    """All are its own, and call those of torch."""

    def scale(self, outputs: Any) -> Any:
        return super().scale(outputs)

    def unscale_(self, optimizer: Any) -> None:
        super().unscale_(optimizer)

    def update(self, new_scale: Any = None) -> None:
        super().update(new_scale)


def sharded(device: str, init_scale: float) -> Any:
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

    return ShardedGradScaler(device, init_scale=init_scale, process_group=distributed.group.WORLD)


def train(make: Any, told: list[Any], *, update: bool = True) -> list[Any]:
    """Train in float16; `told` gets the scale of each step, and whether it changed the parameters."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)).cuda()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scaler = make("cuda", init_scale=1024.0)
    for step in range(STEPS):
        before = [each.detach().clone() for each in network.parameters()]
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            output = network(torch.randn(8, 12).cuda())
            loss = nn.functional.cross_entropy(output, torch.arange(8).cuda() % 4)
        scaler.scale(loss * (1e36 if step in BAD else 1.0)).backward()
        scale = scaler._scale.item()
        scaler.unscale_(optimizer) if not isinstance(scaler, Clipping) else None
        scaler.step(optimizer)
        if update:
            scaler.update()
        pairs = zip(before, network.parameters(), strict=True)
        told.append((step, scale, any(not torch.equal(a, b) for a, b in pairs)))
    return [each.detach().clone() for each in network.parameters()]


@pytest.fixture
def group() -> Any:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("make", [Plain, Multiplying, Halving, Clipping, Talking, sharded])
def test_steps_and_scales_of_a_scaler_of_another_class(
    tmp_path: Path, group: Any, make: Any
) -> None:
    told: list[Any] = []
    with traced(tmp_path / "run.mpa"):
        train(make, told)
    with Reader(tmp_path / "run.mpa") as run:
        seen = [
            (step, each.scale, each.applied)
            for each in run.attempts()
            for step in range(each.first, each.last + 1)
        ]
        assert seen == told
        assert [step for step, _, applied in told if not applied] == sorted(BAD)
        assert {each.judgement for each in run.incidents()} == {"benign"}
        assert run.problems() == []
        assert run.meta["losses"]["nonfinite"] == 0  # of the loss itself, not what a scaler makes
    for kind in (
        torch.amp.GradScaler,
        make if isinstance(make, type) else type(sharded("cpu", 1.0)),
    ):
        assert not any(hasattr(each, "__wrapped__") for each in vars(kind).values())


@pytest.mark.parametrize("make", [Plain, Halving, sharded])
def test_a_missing_update_is_seen_in_a_scaler_of_another_class(
    tmp_path: Path, group: Any, make: Any
) -> None:
    with traced(tmp_path / "run.mpa"), pytest.raises(RuntimeError, match="called after step"):
        train(make, [], update=False)
    with Reader(tmp_path / "run.mpa") as run:
        assert "missing-scaler-update" in {each.rule for each in run.problems()}


SHARDED = """
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
net = FullyShardedDataParallel(net, device_id=torch.device("cpu"))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
scaler = ShardedGradScaler("cpu", init_scale=1024.0)
with open(f"told{rank}", "w") as file:
    for step in range(14):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = net(torch.randn(8, 12)).float().square().mean()
        scaler.scale(loss * (1e36 if rank == 1 and step == 6 else 1.0)).backward()
        scale = scaler._scale.item()
        scaler.step(optimizer)
        scaler.update()
        print(step, scale, scale == scaler._scale.item(), file=file)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_that_shard_skip_together(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SHARDED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*command, "-m", "mpaudit", "run", "-o", "run.mpa", "train.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    for rank in range(2):
        told = [line.split() for line in (tmp_path / f"told{rank}").read_text().splitlines()]
        assert [int(step) for step, _, kept in told if kept == "False"] == [6]
        with Reader(tmp_path / f"run.r{rank}.mpa") as run:
            seen = [
                [str(step), str(each.scale), str(each.applied)]
                for each in run.attempts()
                for step in range(each.first, each.last + 1)
            ]
            assert seen == told
            assert {each.rule for each in run.problems()} == {"scaler-with-bfloat16"}

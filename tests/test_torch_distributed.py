"""Two processes that train together, under torchrun: each has its trace, and computes the same bits."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from watched import ROOT  # noqa: E402

from mpaudit import verdict  # noqa: E402
from mpaudit.render import run_json  # noqa: E402
from mpaudit.runtime.record import Attempts  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed"),
]

SCRIPT = """
import json
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
seen = {}
for name, module in net.named_modules():

    def look(module, _, output, name=name):
        new = {"type": type(module).__name__.removeprefix("FSDP"), "amax": 0.0, "calls": 0}
        row = seen.setdefault(name, new)
        row["output"] = str(output.dtype).removeprefix("torch.")
        row["amax"] = max(row["amax"], output.detach().float().abs().max().item())
        row["calls"] += 1

    module.register_forward_hook(look)
model = net
if sys.argv[1] == "ddp":
    model = nn.parallel.DistributedDataParallel(net)
elif sys.argv[1] == "fsdp1":
    model = FullyShardedDataParallel(net, device_id=torch.device("cpu"))
else:
    for layer in (net[0], net[2], net):
        fully_shard(layer)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
generator = torch.Generator().manual_seed(rank)
losses = []
for _ in range(5):
    x = torch.randn(8, 12, generator=generator)
    y = torch.randint(4, (8,), generator=generator)
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(model(x).float(), y)
    loss.backward()
    optimizer.step()
    losses.append(loss.item().hex())
with open(f"told{rank}.json", "w") as file:
    json.dump({"losses": losses, "seen": seen}, file)
dist.destroy_process_group()
"""


def torchrun(folder: Path, *command: str) -> None:
    """Run a command in two processes."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            *command,
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def run(folder: Path, kind: str, *, watched: bool) -> list[Any]:
    """What each of the two processes tells."""
    (folder / "train.py").write_text(SCRIPT)
    mpaudit = ["-m", "mpaudit", "run", "--device", "cpu"] if watched else []
    torchrun(folder, *mpaudit, "train.py", kind)
    return [json.loads((folder / f"told{rank}.json").read_text()) for rank in range(2)]


OVERFLOWS = """
import sys

import torch
import torch.distributed as dist
from torch import nn

dist.init_process_group("gloo")
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 4))
with torch.no_grad():
    net[2].weight.mul_(1e6)
model = nn.parallel.DistributedDataParallel(net.cuda())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cuda")
generator = torch.Generator().manual_seed(dist.get_rank())
for _ in range(6):
    inputs = torch.randn(8, 12, generator=generator).cuda()
    optimizer.zero_grad()
    with torch.autocast("cuda"):
        loss = nn.functional.cross_entropy(model(inputs), (inputs[:, 0] > 0).long())
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
with open(f"loss{dist.get_rank()}", "w") as file:
    file.write(str(loss.item()))
dist.destroy_process_group()
"""


def losses(folder: Path, *options: str) -> list[float]:
    """Of two processes that train `OVERFLOWS` together, each below `mpaudit run`: the last loss."""
    (folder / "overflows.py").write_text(OVERFLOWS)
    torchrun(folder, "-m", "mpaudit", "run", *options, "overflows.py")
    return [float((folder / f"loss{rank}").read_text()) for rank in range(2)]


def test_each_process_applies_the_advice_of_one_trace(tmp_path: Path) -> None:
    assert all(math.isnan(each) for each in losses(tmp_path, "-o", "a.mpa"))
    both = json.loads(run_json.render(verdict.read(*tmp_path.glob("a.r*.mpa"))))
    (norm,) = [each for each in both["layers"] if each["path"] == "3"]
    assert norm["float32_operations"] == [
        {"operation": "layer_norm", "why": "listed", "per_step": 1.0}  # in each of the processes
    ]
    told = losses(tmp_path, "--apply", "a.r0.mpa", "-o", "b.mpa")
    for rank in range(2):
        with Reader(tmp_path / f"b.r{rank}.mpa") as trace:
            assert trace.meta["applied"]["advice"]["float32"] == ["2"]
            assert trace.meta["applied"]["before"]["skipped"] == 6
            assert all(each.applied for each in trace.attempts())
            assert trace.attempts()[-1].last == 5
            assert trace.meta["losses"]["means"][-1] == told[rank]


@pytest.mark.parametrize("kind", ["ddp", "fsdp1", "fsdp2"])
def test_each_process_has_a_trace_of_its_own(tmp_path: Path, kind: str) -> None:
    told = run(tmp_path, kind, watched=True)
    assert told == run(tmp_path, kind, watched=False)
    assert told[0]["losses"] != told[1]["losses"]  # they have data of their own
    for rank, own in enumerate(told):
        (path,) = tmp_path.glob(f"*.r{rank}.mpa")
        with Reader(path) as trace:
            assert (trace.meta["rank"], trace.meta["world_size"]) == (rank, 2)
            assert trace.meta["probe_errors"] == []
            rows = {e.layer: e for e in trace.statistics() if e.phase == "forward"}
            found = {
                layer.path: {
                    "type": layer.type,
                    "amax": rows[layer.path].amax,
                    "calls": layer.calls,
                    "output": trace.dtypes()[layer.path]["output"][0],
                }
                for layer in trace.layers()
            }
            assert found == own["seen"]
            assert trace.attempts() == [Attempts(0, 0, 4, True, None)]
            flows = trace.dtypes().values()
            assert {d for flow in flows for d in flow.get("parameter_grad", ())} == {"float32"}
            assert trace.problems() == []


SHARDED = """
import json
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import CPUOffload, FullyShardedDataParallel as FSDP, MixedPrecision
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

dist.init_process_group("nccl")
rank = dist.get_rank()
torch.cuda.set_device(rank)


def train(wrap):
    torch.manual_seed(0)
    model = wrap(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = ShardedGradScaler()
    generator = torch.Generator().manual_seed(rank)
    for _ in range(4):
        inputs = torch.randn(8, 12, generator=generator).cuda()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = nn.functional.cross_entropy(model(inputs), (inputs[:, 0] > 0).long())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return loss.item()


precision = MixedPrecision(param_dtype=torch.float16, reduce_dtype=torch.float32)
losses = [
    train(lambda net: nn.parallel.DistributedDataParallel(net.to(rank), device_ids=[rank])),
    train(lambda net: FSDP(net, device_id=rank)),
    train(lambda net: FSDP(net.to(rank))),
    train(lambda net: FSDP(net, device_id=torch.cuda.current_device(), sync_module_states=True)),
    train(lambda net: FSDP(net, None, None, CPUOffload(True), device_id=torch.device("cuda", rank))),
    train(lambda net: FSDP(net, device_id=rank, mixed_precision=precision)),
]
with open(f"told{rank}.json", "w") as file:
    json.dump(losses, file)
dist.destroy_process_group()
"""


def test_what_is_sharded_over_gpus_is_sharded_over_processes_of_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SHARDED)
    torchrun(tmp_path, "-m", "mpaudit", "run", "--device", "cpu", "train.py")
    for rank in range(2):
        whole, *sharded = json.loads((tmp_path / f"told{rank}.json").read_text())
        assert sharded == pytest.approx([whole] * 5, abs=1e-3)
        assert whole < 1.4

"""Two processes that train together, under torchrun: each has its trace, and computes the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from watched import ROOT  # noqa: E402

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


def run(folder: Path, kind: str, *, watched: bool) -> list[Any]:
    """What each of the two processes tells."""
    (folder / "train.py").write_text(SCRIPT)
    mpaudit = ["-m", "mpaudit", "run", "--device", "cpu"] if watched else []
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, *mpaudit, "train.py", kind],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"told{rank}.json").read_text()) for rank in range(2)]


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

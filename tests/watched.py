"""Running a piece of training under the torch probe: what the tests of the probe share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from mpaudit.protocols import machines  # noqa: E402
from mpaudit.runtime.torch import probe as torch_probe  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402
from mpaudit.runtime.tracer import Tracer  # noqa: E402

ROOT = Path(__file__).parents[1]
LAUNCH = (
    "import sys; from mpaudit.runtime.launch import run; sys.exit(run(sys.argv[1], sys.argv[2:]))"
)


torch.set_num_threads(1)  # plain and watched runs are compared bit for bit


@contextmanager
def traced(path: Path) -> Iterator[Tracer]:
    """Everything in the block is watched; the trace is closed after it."""
    said: list[str] = []
    tracer = Tracer(path, machines())
    uninstall = torch_probe.install(tracer, "cpu", said.append)
    try:
        yield tracer
    finally:
        tracer.flush()
        uninstall()
        tracer.close(0)
    assert len(said) == bool(tracer.fact("emulated"))
    assert tracer.fact("probe_errors") == []
    for device in ("cpu", "cuda"):
        assert not torch.is_autocast_enabled(device)
    assert torch.get_autocast_dtype("cpu") is torch.bfloat16


def trace(folder: Path, loop: Callable[[], Any]) -> tuple[Any, Reader]:
    path = folder / "run.mpa"
    with traced(path):
        result = loop()
    return result, Reader(path)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))


def batches(count: int = 6) -> list[tuple[Any, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(8, 12, generator=generator),
            torch.randint(4, (8,), generator=generator),
        )
        for _ in range(count)
    ]


def train(
    network: Any, *, device: str = "cuda", factor: dict[int, float] | None = None
) -> list[float]:
    """A correct loop; in the steps of `factor` the loss is multiplied, so that it overflows."""
    network = network.to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    criterion = nn.CrossEntropyLoss()
    scaler = torch.amp.GradScaler(device)
    losses = []
    for number, (samples, labels) in enumerate(batches()):
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.float16):
            loss = criterion(network(samples.to(device)), labels.to(device))
        loss = loss * (factor or {}).get(number, 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses


def launch(script: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LAUNCH, str(script)]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def mpaudit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line itself, run in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "mpaudit", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

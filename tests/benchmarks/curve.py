"""How cost grows with the number of files, and with the length of one: counted, so that no load shows."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .peer import ROOT, Peers
from .timing import run

COUNTED = Path(__file__).with_name("counted.py")
CLEAN = ROOT / "fixtures" / "clean"
PROJECTS = (1, 2, 4, 8)
"""Copies of every eighth clean script, each in a folder of its own."""
LOOPS = (64, 128, 256, 512)
"""Copies of one training loop in one file, each a function of its own."""
WORK = ("evaluations", "functions called")
LOOP = '''
def train_{n}(model, loader, optimizer):
    """Epoch {n}."""
    scaler = torch.amp.GradScaler("cuda")
    criterion = nn.CrossEntropyLoss()
    total = 0.0
    for inputs, targets in loader:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.float16):
            outputs = model(inputs.cuda())
            loss = criterion(outputs, targets.cuda())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        total += loss.item()
    return total / len(loader)
'''


def files(peers: Peers, where: Path) -> dict[str, Any]:
    """What is done for a number of files, counted, and how it grows."""
    points = []
    for copies in PROJECTS:
        folder = where / f"files-{copies}"
        for number in range(copies):
            (folder / f"copy{number}").mkdir(parents=True)
            for path in sorted(CLEAN.glob("*.py"))[::8]:
                shutil.copy(path, folder / f"copy{number}")
        size = len(list(folder.rglob("*.py")))
        points.append({"files": size, **_point(peers, folder, where)})
        shutil.rmtree(folder)
    return {"points": points, "exponents": exponents(points, "files")}


def length(peers: Peers, where: Path) -> dict[str, Any]:
    """The same over the length of one file."""
    points = []
    path = where / "long.py"
    for copies in LOOPS:
        loops = (LOOP.format(n=n) for n in range(copies))
        path.write_text("import torch\nfrom torch import nn\n\n" + "\n".join(loops))
        lines = len(re.findall("\n", path.read_text()))
        points.append({"lines": lines, **_point(peers, path, where)})
    path.unlink()
    return {"points": points, "exponents": exponents(points, "lines")}


def _point(peers: Peers, target: Path, where: Path) -> dict[str, Any]:
    options = ["check", "--isolated", "--no-cache", "--jobs", "1", str(target)]
    peak = run([peers.program("mpaudit", "mpaudit"), *options], where).peak
    return {"peak MiB": round(peak), **counts(peers, options, where)}


def counts(peers: Peers, options: Sequence[str], where: Path) -> dict[str, int]:
    """What mpaudit does for a command line, counted."""
    out = where / "counts.json"
    run([peers.program("mpaudit", "python"), str(COUNTED), str(out), *options], where)
    return json.loads(out.read_text(encoding="utf-8"))


def exponents(points: Sequence[dict[str, Any]], size: str) -> dict[str, float | None]:
    """By which power of the size each kind of work grows."""
    return {work: exponent(points, size, work) for work in WORK}


def exponent(points: Sequence[dict[str, Any]], size: str, work: str) -> float | None:
    """By which power of the size the work beyond that for the smallest grows: 1 is linear.

    The work of the start is in every point, so differences are compared: of the last two doublings.
    None where nothing grows.
    """
    one, two, three = points[-3:]
    cost = [b[work] - a[work] for a, b in ((one, two), (two, three))]
    if min(cost) <= 0:
        return None
    grown = [b[size] - a[size] for a, b in ((one, two), (two, three))]
    return round(math.log(cost[1] / cost[0]) / math.log(grown[1] / grown[0]), 2)

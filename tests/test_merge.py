"""Several ranks, one report: sums, the first bad rank, and what is missing."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpaudit.cli import main
from mpaudit.errors import MpauditError
from mpaudit.finding import Moment, Position, Problem, Span
from mpaudit.runtime.merge import merge
from mpaudit.runtime.record import Cast, Incident, Statistics
from mpaudit.runtime.trace import Reader
from mpaudit.runtime.tracer import Tracer

ROOT = Path(__file__).parents[1]
SPAN = Span("train.py", Position(3, 5), Position(3, 20))


def rank(
    folder: Path, number: int, *, bad: int, skips: tuple[int, ...] = (), size: int = 2
) -> Path:
    """The trace of a rank: one layer that overflows in step `bad`, ten steps of one optimizer."""
    path = folder / f"out.r{number}.mpa"
    tracer = Tracer(path)
    facts = {"script": "train.py", "argv": [], "rank": number, "world_size": size}
    for key, value in {**facts, "started": f"2026-01-01T00:00:0{number}+00:00"}.items():
        tracer.note(key, value)
    tracer.note("cast_steps", 2)
    tracer.note("cast_steps_of", {"0": 1} if number else {})
    tracer.note("float32_operations", {"0": {"softmax": {"listed": 2 + number}}})
    tracer.note("repeated_casts", {"0": 3 - number, f"of {number}": 1})
    tracer.layer("0", "Linear")
    optimizer = tracer.optimizer("SGD")
    for step in range(10):
        tracer.called("0", step)
        tracer.saw("0", "output", "float16")
        inf = int(step == bad)
        at = step if inf else None
        tracer.measured(Statistics("0", "forward", "float16", 1, 8, inf, 0, at, at, 2.0 + number))
        if inf:
            kind = ("activation-overflow", "activation-overflow")
            tracer.incident(Incident(*kind, "0", step, step, 0, ("inf",), "defect", f"of {number}"))
        tracer.settled(optimizer, tracer.attempted(optimizer), step not in skips, 256.0)
    tracer.cast(Cast("0", "parameter", "float32", "float16", 4, 400))
    tracer.problem(Problem("missing-scaler-update", SPAN, "no update", "", (), (), Moment(1)))
    tracer.close(0)
    return path


def test_counts_add_up_and_the_first_bad_rank_is_named(tmp_path: Path) -> None:
    paths = [rank(tmp_path, 1, bad=3), rank(tmp_path, 0, bad=5)]
    merge(paths, tmp_path / "all.mpa")
    with Reader(tmp_path / "all.mpa") as trace:
        meta = trace.meta
        (layer,), (numbers,), (cast,) = trace.layers(), trace.statistics(), trace.casts()
        (incident,), (problem,) = trace.incidents(), trace.problems()
        (attempts,) = trace.attempts()
    assert (layer.calls, layer.calls_per_step) == (20, 1)
    assert (numbers.elements, numbers.inf, numbers.amax) == (160, 2, 3.0)
    assert (numbers.first_bad_step, numbers.last_bad_step) == (3, 5)
    assert (cast.count, cast.bytes, meta["cast_steps"]) == (8, 800, 4)
    assert meta["cast_steps_of"] == {"0": 3}
    assert meta["float32_operations"]["0"] == {"softmax": {"listed": 5}}
    assert meta["repeated_casts"] == {"0": 3, "of 0": 1, "of 1": 1}
    assert (incident.rank, incident.first_step, incident.last_step) == (1, 3, 5)
    assert (incident.message, incident.count) == ("of 1", 2)
    assert problem.moment == Moment(1, rank=0)
    assert (attempts.first, attempts.last) == (0, 9)
    first = {"ranks": [1], "step": 3, "layer": "0", "kind": "activation-overflow"}
    assert meta["first_bad"] == first
    assert (meta["ranks"], meta["missing_ranks"], meta["ranks_part"]) == ([0, 1], [], None)
    assert meta["started"] == "2026-01-01T00:00:00+00:00"
    assert meta["merged"] == [str(path) for path in reversed(paths)]


def test_a_folder_is_reported_as_one_run(tmp_path: Path) -> None:
    rank(tmp_path, 0, bad=5, skips=(4,), size=3)
    rank(tmp_path, 2, bad=5, skips=(4, 7), size=3)
    done = CliRunner().invoke(main, ["report", str(tmp_path), "--format", "json"])
    assert done.exit_code == 0, done.output
    meta = json.loads(done.stdout)["meta"]
    assert (meta["ranks"], meta["missing_ranks"], meta["world_size"]) == ([0, 2], [1], 3)
    assert meta["ranks_part"] == {"optimizer": 0, "step": 7, "skipped": [2], "applied": [0]}
    assert meta["first_bad"]["ranks"] == [0, 2]
    text = CliRunner().invoke(main, ["report", str(tmp_path)]).stdout
    assert "0, 2 of 3; there is no trace of 1" in text
    assert "at step 7 of optimizer 0: skipped by 2, applied by 0" in text
    assert "ranks 0, 2, step 5: activation-overflow at 0" in text
    page = CliRunner().invoke(main, ["report", str(tmp_path), "--format", "html"]).stdout.strip()
    assert page == str(tmp_path / f"mpaudit-html-{tmp_path.name}.html")
    assert "there is no trace of 1" in Path(page).read_text(encoding="utf-8")
    merged = CliRunner().invoke(main, ["merge", str(tmp_path)])
    assert merged.stdout == f"{tmp_path / 'out.mpa'}\n"
    again = CliRunner().invoke(main, ["report", str(tmp_path)])  # the merged one is no further rank
    assert again.stdout == text
    alone = CliRunner().invoke(main, ["report", merged.stdout.strip()]).stdout
    assert alone.splitlines()[1:] == text.splitlines()[1:]


def test_of_a_folder_the_last_run_is_shown_and_the_others_are_named(tmp_path: Path) -> None:
    for run, bad in (("first", 3), ("second", 5)):
        (tmp_path / run).mkdir()
        for number in range(2):
            path = rank(tmp_path / run, number, bad=bad)
            with sqlite3.connect(path) as trace:
                minute = f"2026-01-01T00:0{bad}:0{number}+00:00"
                for key, value in (("run", run), ("started", minute)):
                    trace.execute(
                        "INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value))
                    )
            path.rename(tmp_path / f"{run}.{number}.mpa")
    command = [sys.executable, "-m", "mpaudit", "report", ".", "--format", "json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["meta"]["first_bad"]["step"] == 5
    assert (
        done.stderr
        == "mpaudit: .: holds traces of 2 runs; the last began at 2026-01-01T00:05:00+00:00\n"
    )
    (tmp_path / "first.0.mpa").unlink()
    (tmp_path / "first.1.mpa").unlink()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_what_is_not_one_run_is_refused(tmp_path: Path) -> None:
    one = rank(tmp_path, 0, bad=5)
    (tmp_path / "other").mkdir()
    (tmp_path / "empty").mkdir()
    twin = rank(tmp_path / "other", 0, bad=5)
    output = tmp_path / "all.mpa"
    with pytest.raises(MpauditError, match="are both of rank 0"):
        merge([one, twin], output)
    tracer = Tracer(tmp_path / "third.mpa")
    tracer.note("script", "else.py")
    tracer.note("rank", 1)
    tracer.close(0)
    with pytest.raises(MpauditError, match=r"of train\.py, .* of else\.py"):
        merge([one, tmp_path / "third.mpa"], output)
    assert not output.exists()
    for arguments, reason in (
        (["report", str(tmp_path / "empty")], "there are no traces"),
        (["merge", str(one), "-o", str(one)], "is one of the traces"),
        (["merge", str(one), str(tmp_path / "absent.mpa")], "there is no such file"),
        (["report"], "Missing argument"),
    ):
        command = [sys.executable, "-m", "mpaudit", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert reason in done.stderr


RANKS = """
import json
import os
import torch
from torch import nn

torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
seen = {"inf": 0, "amax": 0.0, "calls": 0, "skipped": []}

def look(module, args, output):
    finite = output[output.isfinite()].abs()
    seen["inf"] += int(output.isinf().sum())
    seen["amax"] = max(seen["amax"], finite.max().item() if len(finite) else 0.0)
    seen["calls"] += 1

model[2].register_forward_hook(look)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
parallel = nn.parallel.DistributedDataParallel(model)
scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
for step in range(6):
    inputs = torch.randn(8, 12, generator=torch.Generator().manual_seed(10 * step + rank))
    if (rank, step) == (1, 3):
        inputs = inputs * 60000.0
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.float16):
        loss = parallel(inputs.clamp(-65000, 65000)).float().square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    before = scaler.get_scale()
    scaler.update()
    if scaler.get_scale() < before:
        seen["skipped"].append(step)
with open(f"seen{rank}.json", "w") as file:
    json.dump(seen, file)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_of_which_the_second_overflows(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "train.py").write_text(RANKS, encoding="utf-8")
    launch = "-m torch.distributed.run --nproc-per-node 2 -m mpaudit run -o out.mpa train.py"
    done = subprocess.run(
        [sys.executable, *launch.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "each rank leaves a trace, this one out.r0.mpa; look at all of them" in done.stderr
    assert done.stderr.count("mpaudit report .\n") == 1
    seen = [json.loads((tmp_path / f"seen{n}.json").read_text()) for n in range(2)]
    shown = CliRunner().invoke(main, ["report", str(tmp_path), "--format", "json"])
    data = json.loads(shown.stdout)
    last = next(each for each in data["layers"] if each["path"] == "2")
    assert seen[0]["inf"] == 0 < seen[1]["inf"] == last["forward"]["inf"]
    assert last["forward"]["amax"] == max(each["amax"] for each in seen)
    assert seen[0]["skipped"] == seen[1]["skipped"] == data["optimizers"][0]["skipped_steps"] == [3]
    assert (data["meta"]["ranks"], data["meta"]["ranks_part"]) == ([0, 1], None)
    assert data["meta"]["first_bad"]["ranks"] == [1]
    assert data["meta"]["first_bad"]["step"] == 3
    assert {each["rank"] for each in data["events"] if each["kind"].startswith("activation")} == {1}
